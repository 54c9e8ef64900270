"""Imports point down the floors of the design, what is light stays light, and each rule lists all who break it."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.import_graph import ROOT, circles, graph, imported, modules, offences, tree

from sgm_core.kinds import KINDS
from sgm_core.registry import BUILTIN, index

LEAF_KINDS = {"scalings", "discretizations", "samplers", "guiders", "weightings", "sigma_samplers", "lr_schedules"}
"""Formulas: what stands in a paper, with no more than torch around it."""

LEAF_IMPORTS = {"torch", "annotated_types", "sgm_core", "sgm_plugins", *sys.stdlib_module_names}

KNOWN_OFFENCES: set[str] = set()
"""Imports that still point up. This list only shrinks."""

KNOWN_CIRCLES = 0
"""How many circles there still are. This number only falls."""


def test_imports_point_down():
    found = set(offences())
    assert sorted(found - KNOWN_OFFENCES) == []
    assert sorted(KNOWN_OFFENCES - found) == [], "these are mended: take them off the list"


def test_there_is_no_circle():
    found = circles(graph())
    assert len(found) == KNOWN_CIRCLES, "\n".join(map(" <-> ".join, found))


NAMED_IN_THE_CORE = {
    ("sgm_core/config/check.py", "cached"),  # what `cache: true` is short for
    ("sgm_core/testing/models.py", "general"),  # the kit tries embedders in it
    ("sgm_core/training/base.py", "interval"),  # a word of Lightning's
}
"""Texts of the core that are the name of a built-in component. No other may come."""


def test_the_core_names_no_built_in_component_and_no_module_of_the_plugins():
    names = {entry.name for entry in index.entries() if entry.distribution == BUILTIN and entry.kind in KINDS}
    found, modules_named = set(), []
    for name, file in modules().items():
        if not name.startswith("sgm_core"):
            continue
        place_of = file.relative_to(ROOT).as_posix()
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                if node.value in names:
                    found.add((place_of, node.value))
                if node.value.startswith("sgm_plugins.") and " " not in node.value:
                    modules_named.append(f"{place_of}:{node.lineno}: {node.value}")
    assert found == NAMED_IN_THE_CORE
    assert modules_named == []


def test_a_formula_imports_nothing_heavier_than_torch():
    wrong = []
    for entry in index.entries():
        if entry.distribution != BUILTIN or entry.kind not in LEAF_KINDS:
            continue
        module = entry.value.partition(":")[0]
        if module not in modules():
            continue
        for name in (module, *(m for m in graph()[module] if m.startswith("sgm_plugins"))):
            heavy = {found.partition(".")[0] for found in imported(modules()[name])} - LEAF_IMPORTS
            wrong += [f"{name}: {package}" for package in sorted(heavy)]
    assert wrong == []


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


def test_the_registry_imports_only_the_standard_library():
    """At run time; `__init__` names the rest for type checkers only."""
    own = {"sgm_core.registry", "sgm_core.kinds", "sgm_core.errors"}
    wrong = []
    for name in ("registry.py", "kinds.py", "errors.py", "__init__.py"):
        source = ast.parse((ROOT / "sgm_core" / name).read_text(encoding="utf-8"))
        for node in ast.walk(source):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                node.body = []
        for node in ast.walk(source):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                found = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                outside = [m for m in found if m not in own and m.partition(".")[0] not in sys.stdlib_module_names]
                wrong += [f"{name}:{node.lineno}: {module}" for module in outside]
    assert wrong == []


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Each call in a file, with what is called."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def place(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{node.lineno}"  # type: ignore[attr-defined]


UNSAFE = {"eval", "exec", "compile", "pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load", "os.system"}


def test_no_text_is_run_and_no_file_is_unpickled_with_code():
    """B29: the reference evaluates texts, and reads checkpoints with an unpickler that runs what is in them."""
    wrong = []
    for path in modules().values():
        for name, call in calls(path):
            own = name == "pickle.loads" and ast.unparse(call.args[0]).startswith("pickle.dumps(")
            keywords = {k.arg: ast.unparse(k.value) for k in call.keywords}
            if (name in UNSAFE and not own) or (name == "torch.load" and keywords.get("weights_only") != "True"):
                wrong.append(f"{place(path, call)}: {name}")
    assert wrong == []


def test_no_device_is_written_into_the_code():
    """The reference has `torch.autocast("cuda")` in engine and embedders. Whether a device is one may be asked."""
    wrong = []
    for path in modules().values():
        source = tree(path)
        asked = {id(part) for node in ast.walk(source) if isinstance(node, ast.Compare) for part in ast.walk(node)}
        chooses = {  # where the user names no device
            id(part)
            for node in ast.walk(source)
            if isinstance(node, ast.FunctionDef) and node.name == "pick_device"
            for part in ast.walk(node)
        }
        for node in ast.walk(source):
            if isinstance(node, ast.Constant) and node.value == "cuda" and id(node) not in asked | chooses:
                wrong.append(place(path, node))
        wrong += [f"{place(path, call)}: {name}" for name, call in calls(path) if name.startswith("torch.cuda.amp")]
    assert wrong == []


def test_no_attribute_of_an_engine_is_guessed():
    """`TrainingEngine` declares what is read of an engine. Only its provenance may be anyone's."""
    engines = {"engine", "pl_module", "self.engine", "self.conditioner"}
    guessed = [
        place(path, call)
        for path in modules().values()
        for name, call in calls(path)
        if name in ("getattr", "hasattr") and ast.unparse(call.args[0]) in engines
    ]
    assert [where for where in guessed if not where.startswith("sgm_core/config/provenance.py")] == []


def test_nothing_waits_for_a_signal_that_windows_lacks():
    """B39: the reference saves on SIGUSR1 and debugs on SIGUSR2."""
    absent = {"SIGUSR1", "SIGUSR2", "SIGHUP", "SIGALRM"}
    assert [
        place(path, node)
        for path in modules().values()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and node.attr in absent
    ] == []


HEAVY = ("torch", "lightning", "pytorch_lightning", "omegaconf", "yaml", "numpy", "pluggy")
TOOLS = ("sgm_plugins.tools", "sgm_plugins.cached", "sgm_plugins.lora")


def loaded_after(code: str) -> set[str]:
    """The heavy modules that a fresh interpreter has after some code, and the components."""
    report = (
        f"import json, sys; heavy = [m for m in {HEAVY!r} if m in sys.modules];"
        f"parts = [m for m in sys.modules if m.startswith('sgm_plugins.') and not m.startswith({TOOLS!r})];"
        "print(json.dumps(heavy + parts))"
    )
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
        "from sgm_core.cli.app import main\ntry: main(['sample', '--help'])\nexcept SystemExit: pass",
    ],
)
def test_listing_and_help_load_nothing_heavy(code):
    assert loaded_after(code) == set()


def test_the_options_of_plugins_cost_an_import_of_pluggy_and_no_other():
    code = "from sgm_core.cli.app import main\ntry: main(['train', '--help'])\nexcept SystemExit: pass"
    assert loaded_after(code) == {"pluggy"}


def test_reading_a_config_loads_no_torch_and_no_plugin(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("vars: {n: 2}\nmodel: {use: diffusion, network: {use: unet, in_channels: '${vars.n}'}}\n")
    code = f"import sgm_core; sgm_core.load_config({str(file)!r}, overrides=['seed=1']).to_yaml()"
    assert loaded_after(code) <= {"yaml"}
