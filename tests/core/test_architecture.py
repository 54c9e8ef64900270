"""Dependencies point one way: sgm_plugins -> sgm_core -> torch and Lightning, and what is light stays light."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sgm_core
from sgm_core.registry import BUILTIN, index

ROOT = Path(sgm_core.__file__).parents[1]
CORE = sorted((ROOT / "sgm_core").rglob("*.py"))
PLUGINS = sorted((ROOT / "sgm_plugins").rglob("*.py"))

LEAF_KINDS = {"scalings", "discretizations", "samplers", "guiders", "weightings", "sigma_samplers", "lr_schedules"}
"""Formulas: what stands in a paper, with no more than torch around it."""

LEAF_IMPORTS = {"torch", "annotated_types", "sgm_core", "sgm_plugins", *sys.stdlib_module_names}


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_files(modules: set[str]) -> set[Path]:
    """The files of the project among these modules."""
    stems = [ROOT.joinpath(*module.split(".")) for module in modules if module.startswith("sgm_")]
    return {file for stem in stems for file in (stem.with_suffix(".py"), stem / "__init__.py") if file.is_file()}


def texts(path: Path) -> Iterator[str]:
    """String constants can import too, through import_module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_core_imports_no_plugin(path):
    assert not [module for module in imports(path) if module.partition(".")[0] == "sgm_plugins"]
    assert not [text for text in texts(path) if text.startswith("sgm_plugins.") and " " not in text]


@pytest.mark.parametrize(
    "path", [p for p in CORE if p.parent.name != "cli"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_the_library_does_not_know_the_commands(path):
    assert not [module for module in imports(path) if module.startswith("sgm_core.cli")]


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: str(path.relative_to(ROOT)))
def test_plugins_do_not_know_the_config_system_or_the_commands(path):
    forbidden = ("sgm_core.config", "sgm_core.cli", "sgm_core.run")
    assert not [module for module in imports(path) if module.startswith(forbidden)]


@pytest.mark.parametrize("entry", [e for e in index.entries() if e.distribution == BUILTIN and e.kind in LEAF_KINDS])
def test_a_formula_imports_nothing_heavier_than_torch(entry):
    module = entry.value.partition(":")[0]
    found = set(imports(next(iter(own_files({module})))))
    assert {name.partition(".")[0] for name in found} <= LEAF_IMPORTS
    for file in own_files({name for name in found if name.startswith("sgm_plugins")}):
        assert {name.partition(".")[0] for name in imports(file)} <= LEAF_IMPORTS


def test_a_sampler_is_built_from_its_parts_without_lightning():
    code = (
        "import sgm_core; sgm_core.build('samplers', {'use': 'heun_edm', 'discretization': 'edm', 'guider': "
        "{'use': 'cfg', 'scale': 2.0}}); sgm_core.build('losses', {'use': 'standard', 'sigma_sampler': 'edm', "
        "'weighting': 'v'}); sgm_core.build('networks', {'use': 'unet', 'in_channels': 1, 'out_channels': 1, "
        "'model_channels': 32, 'num_res_blocks': 1, 'attention_resolutions': [], 'channel_mult': [1]})"
    )
    assert "lightning" not in loaded_after(code)


def test_an_embedder_of_numbers_loads_no_text_tower():
    """B25: importing any embedder of the reference imports kornia, open_clip and transformers."""
    code = "import sys, sgm_core; [sgm_core.resolve('embedders', n) for n in ('class', 'identity', 'timestep')]"
    report = (
        "print([m for m in ('transformers', 'kornia', 'open_clip', 'torchvision', 'lightning') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", f"{code}; {report}"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]"]


@pytest.mark.parametrize("name", ["registry.py", "kinds.py", "errors.py", "__init__.py"])
def test_the_registry_imports_only_the_standard_library(name):
    """At run time; `__init__` names the rest for type checkers only."""
    tree = ast.parse((ROOT / "sgm_core" / name).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    found = {
        module
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for module in ([a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""])
    }
    own = {"sgm_core.registry", "sgm_core.kinds", "sgm_core.errors"}
    assert {module.partition(".")[0] for module in found - own} <= sys.stdlib_module_names


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Each call in a file, with what is called."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


UNSAFE = {"eval", "exec", "compile", "pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load", "os.system"}


@pytest.mark.parametrize("path", [*CORE, *PLUGINS], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_text_is_run_and_no_file_is_unpickled_with_code(path):
    """B29: the reference evaluates texts, and reads checkpoints with an unpickler that runs what is in them."""
    for name, call in calls(path):
        own = name == "pickle.loads" and ast.unparse(call.args[0]).startswith("pickle.dumps(")
        assert own or name not in UNSAFE, f"{path}:{call.lineno}: {name}"
        if name == "torch.load":
            assert {"weights_only": "True"}.items() <= {k.arg: ast.unparse(k.value) for k in call.keywords}.items()


@pytest.mark.parametrize("path", [*CORE, *PLUGINS], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_device_is_written_into_the_code(path):
    """The reference has `torch.autocast("cuda")` in engine and embedders. Whether a device is one may be asked."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    asked = {id(part) for node in ast.walk(tree) if isinstance(node, ast.Compare) for part in ast.walk(node)}
    named = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value == "cuda" and id(node) not in asked
    ]
    if path.name == "sample.py":  # which looks for a device where the user names none
        named = [node for node in named if node.lineno not in range(*lines_of(tree, "pick_device"))]
    assert not named
    assert not [name for name, _ in calls(path) if name.startswith("torch.cuda.amp")]


@pytest.mark.parametrize("path", [*CORE, *PLUGINS], ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_waits_for_a_signal_that_windows_lacks(path):
    """B39: the reference saves on SIGUSR1 and debugs on SIGUSR2."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    named = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not named & {"SIGUSR1", "SIGUSR2", "SIGHUP", "SIGALRM"}


def lines_of(tree: ast.Module, function: str) -> tuple[int, int]:
    """The first line of a function, and the one after its last."""
    [node] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function]
    assert node.end_lineno is not None
    return node.lineno, node.end_lineno + 1


HEAVY = ("torch", "lightning", "pytorch_lightning", "omegaconf", "yaml", "numpy", "pluggy", "sgm_plugins")


def loaded_after(code: str) -> set[str]:
    """The heavy modules that a fresh interpreter has after some code."""
    report = f"import json, sys; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import sgm_core",
        "import sgm_core; [sgm_core.names(kind) for kind in ('networks', 'samplers')]",
        "from sgm_core.cli.app import main; main(['list', '--json'])",
        "from sgm_core.cli.app import main; main(['list', 'samplers'])",
        "from sgm_core.cli.app import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "from sgm_core.cli.app import main\ntry: main(['train', '--help'])\nexcept SystemExit: pass",
    ],
)
def test_listing_and_help_load_nothing_heavy(code):
    assert loaded_after(code) == set()


def test_reading_a_config_loads_no_torch_and_no_plugin(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("vars: {n: 2}\nmodel: {use: diffusion, network: {use: unet, in_channels: '${vars.n}'}}\n")
    code = f"import sgm_core; sgm_core.load_config({str(file)!r}, overrides=['seed=1']).to_yaml()"
    assert loaded_after(code) <= {"yaml"}
