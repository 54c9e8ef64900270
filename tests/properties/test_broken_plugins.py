"""Every way in which a plugin can be broken, all of them installed at once: what does not need them still works."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.places import ROOT

import sgm_core as sgm
from sgm_core.kinds import KINDS

IMPORTS = {
    "import_error": "from json import nothing_of_that_name\n",
    "syntax_error": "def f(:\n",
    "no_text": "x = '\udcff'\n",
    "runtime_error": "raise RuntimeError('two\\nlines')\n",
    "system_exit": "import sys\nsys.exit(3)\n",
    "missing": "import a_module_that_is_nowhere\n",
    "too_deep": "def f(): f()\nf()\n",
}
"""What stops an import, and can be stopped itself."""

ENDS = {
    "interrupt": "raise KeyboardInterrupt\n",
    "hangs": "import time\ntime.sleep(1000)\n",
    "os_exit": "import os\nos._exit(0)\n",
    "closes": "import sys\nsys.stdout.close()\nsys.stderr.close()\nraise RuntimeError\n",
    "crash": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n",
}
"""After whose import a process cannot go on, or has nowhere to say why."""

OBJECTS = {
    "number": "thing = 3\n",
    "nothing": "thing = None\n",
    "attribute": "other = 3\n",
    "unhinted": "class thing:\n    def __init__(self, a, *args, b=lambda: 1, **kwargs): raise RuntimeError\n",
    "bad_hints": "class thing:\n    def __init__(self, a: 'nowhere.Nothing | 3', b: print('read') = 1): ...\n",
    "metaclass": "class M(type):\n def __getattribute__(self, name): raise RuntimeError\nclass thing(metaclass=M): 1\n",
    "raising_getattr": "def __getattr__(name): raise RuntimeError(name)\n",
}
"""What can be imported and is no component, command, section, family or package of configs."""

HOOKS = {
    "unknown_hook": "import sgm_core\n@sgm_core.hookimpl\ndef session_begin(command): ...\n",
    "other_parameters": "import sgm_core\n@sgm_core.hookimpl\ndef session_start(nothing): ...\n",
    "no_hooks": "x = 1\n",
    "raising_hook": "import sgm_core\n@sgm_core.hookimpl\ndef session_start(command): raise RuntimeError\n",
    "exiting_hook": "import sgm_core\n@sgm_core.hookimpl\ndef session_start(command): raise SystemExit(5)\n",
    "late_exit": "import sgm_core\n@sgm_core.hookimpl\ndef session_finish(command): raise SystemExit(5)\n",
    "odd_patches": "import sgm_core\n@sgm_core.hookimpl\ndef config_loaded(config): return ['trainer']\n",
    "odd_callbacks": "import sgm_core\n@sgm_core.hookimpl\ndef lightning_callbacks(config): return 3\n",
    "odd_state": "import sgm_core\n@sgm_core.hookimpl\ndef checkpoint_save(engine): return object()\n",
    "odd_images": "import sgm_core\n@sgm_core.hookimpl\ndef extra_images(engine): return {'x': 'y'}\n",
    "refuses_component": "import sgm_core\n@sgm_core.hookimpl\ndef component_built(component): raise RuntimeError\n",
}
"""Hook plugins that load, or nearly do, and misbehave."""

SHADOWED = ["networks.unet", "samplers.euler_edm", "scalings.edm", "datamodules.digits", "engines.diffusion"]
"""Built-in names that broken plugins offer too."""

SHORT = [
    "trainer.max_steps=3", "trainer.accelerator=cpu", "trainer.limit_val_batches=0", "trainer.log_every_n_steps=1",
    "trainer.enable_progress_bar=false", "model.network.channel_mult=[1]", "model.sampler.num_steps=2",
    "data.batch_size=8",
]  # fmt: skip


def install(make_distribution, folder: Path, *, hooks: bool) -> None:
    """A distribution for each broken module, which is a component of every kind; as a hook plugin, where that can be
    contained in the process."""
    kinds = {f"sgm.{group}" for group in (*KINDS, "commands", "sections", "configs")}
    for name, source in (IMPORTS | ENDS | OBJECTS).items():
        points = {group: {name: f"throwaway_{name}:thing"} for group in kinds}
        for shadowed in SHADOWED:
            kind, _, built_in = shadowed.partition(".")
            points[f"sgm.{kind}"][built_in] = f"throwaway_{name}:thing"
        if hooks and name not in ENDS:
            points["sgm.plugins"] = {name: f"throwaway_{name}", f"{name}_thing": f"throwaway_{name}:thing"}
        make_distribution(distribution(name), points, {}, folder=folder)
        (folder / f"throwaway_{name}.py").write_bytes(source.encode("utf-8", "surrogateescape"))
    for name, source in HOOKS.items() if hooks else ():
        points = {"sgm.plugins": {name: f"throwaway_{name}"}}
        make_distribution(distribution(name), points, {f"throwaway_{name}.py": source}, folder=folder)

    odd = {"empty": "", "no_colon": "throwaway", "spaces": "a b:c d", "dots": "..x:y", "colons": "a:b:c", "quotes": "'"}
    make_distribution("sgm-values", {"sgm.samplers": odd}, {}, folder=folder)
    make_distribution("sgm-kinds", {"sgm.nokind": {"x": "y:z"}, "sgm.": {"x": "y:z"}, "sgm": {"x": "y"}}, folder=folder)
    # metadata that importlib.metadata cannot read is not among them: it breaks `import torch`, which reads all of it


def distribution(name: str) -> str:
    """Of the broken module of that name."""
    return f"sgm-{name.replace('_', '-')}"


@pytest.fixture
def in_a_process(python, tmp_path):
    """Runs a command, with what is installed in the folder of the test."""

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        path = os.pathsep.join([*sys.path, str(tmp_path)])
        code = "import sys; from sgm_core.cli.app import main; sys.exit(main())"
        return python("-c", code, *arguments, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path, "SGM_PLUGINS": ""})

    return run


@pytest.fixture(params=[pytest.param(False, id="components"), pytest.param(True, id="hooks")])
def folder(request, make_distribution, tmp_path) -> Path:
    path = list(sys.path)
    install(make_distribution, tmp_path, hooks=request.param)
    sys.path[:] = path
    return tmp_path


def test_listing_checking_and_training_do_without_them(folder, in_a_process):
    listed = in_a_process("list", "--json")
    assert listed.returncode == 0, listed.stderr
    rows = {(row["kind"], row["name"], row["distribution"]) for row in json.loads(listed.stdout)}
    assert rows >= {("samplers", name, distribution(name)) for name in IMPORTS | ENDS | OBJECTS}
    assert ("samplers", "euler_edm", "sgm-core") in rows

    for arguments in (["list"], ["list", "--long"], ["show", "samplers/euler_edm"]):
        done = in_a_process(*arguments)
        assert (done.returncode, done.stderr) == (0, ""), arguments

    checked = in_a_process("check", str(ROOT / "configs" / "digits.yaml"))
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "fine" in checked.stdout

    written = in_a_process("schema")
    assert (written.returncode, written.stderr) == (0, "")
    definitions = json.loads(written.stdout)["$defs"]
    assert {f"samplers/{distribution(name)}:{name}" for name in IMPORTS | ENDS | OBJECTS} <= {*definitions}

    trained = in_a_process("train", str(ROOT / "configs" / "digits.yaml"), *SHORT, "--name", "a")
    assert trained.returncode == 0, trained.stderr
    assert "Traceback" not in trained.stderr
    steps = [json.loads(line)["step"] for line in (folder / "runs/a/metrics.jsonl").read_text().splitlines()]
    assert max(steps) == 2
    assert (folder / "runs" / "a" / "model.safetensors").is_file()


def test_a_config_that_names_one_of_them_says_why_it_can_not_be_used(make_distribution, tmp_path, one_after_another):
    path = list(sys.path)
    install(make_distribution, tmp_path, hooks=False)
    sys.path[:] = path
    names = list(IMPORTS | OBJECTS)
    train = ["train", str(ROOT / "configs" / "digits.yaml"), "--name", "a"]
    found_in = os.pathsep.join([*sys.path, str(tmp_path)])
    answers = one_after_another([[*train, f"model.sampler={n}"] for n in names], tmp_path, PYTHONPATH=found_in)
    for name, (code, error) in zip(names, answers, strict=True):
        assert code == 1, (name, error)
        assert "Traceback" not in error, name
        assert "model.sampler" in error, name
        assert name in error
    assert not (tmp_path / "runs" / "a").exists()


def test_what_is_installed_is_broken(make_distribution, tmp_path):
    """So that the tests above say something."""
    install(make_distribution, tmp_path, hooks=False)
    for name in ("import_error", "syntax_error", "runtime_error", "system_exit", "missing", "attribute"):
        with pytest.raises(ValueError, match=f"'{name}' of {distribution(name)} 1.0 cannot be loaded"):
            sgm.resolve("samplers", name)
