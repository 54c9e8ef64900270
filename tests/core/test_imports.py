"""What a command imports, counted: seconds differ from machine to machine, modules do not.

Where a budget is exceeded, the message has the chains of imports that did it. A budget may be raised on purpose.
"""

import re
import subprocess
import sys
from collections import Counter
from functools import cache
from typing import NamedTuple

import pytest
from support.places import ROOT

LINE = re.compile(r"import time: +\d+ \| +\d+ \| ( *)(\S+)")


class Imported(NamedTuple):
    """A module, with those that led to it: the outermost first, itself last."""

    chain: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.chain[-1]

    @property
    def package(self) -> str:
        return self.name.partition(".")[0]


def imports_of(report: str) -> list[Imported]:
    """What `python -X importtime` reports, and is there in the end: it names what was not found, too."""
    present = set(report.splitlines()[-1].split())
    chain: list[str] = []
    found = []
    for line in reversed(report.splitlines()):  # a module stands after what it imports
        if match := LINE.match(line):
            depth = len(match[1]) // 2
            chain[depth:] = [match[2]]
            found += [Imported(tuple(chain))] if match[2] in present else []
    return found[::-1]


@cache
def at_start() -> frozenset[str]:
    """What any program imports in this environment, before its first line."""
    return frozenset(module.name for module in imports_of(run("pass")))


def run(code: str) -> str:
    command = [sys.executable, "-X", "importtime", "-c", f"{code}\nimport sys; sys.stderr.write(' '.join(sys.modules))"]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stderr


def over_budget(found: list[Imported], own: int, standard: int, others: set[str]) -> str:
    """What is wrong with the modules that were imported, in words; nothing if all is well.

    Args:
        found: the modules.
        own: how many of ours there may be.
        standard: how many of the standard library.
        others: packages of other distributions that may be there.
    """
    ours = [module for module in found if module.package.startswith("sgm_")]
    library = [module for module in found if module.package.lstrip("_") in {n.lstrip("_") for n in STANDARD}]
    foreign = [module for module in found if module not in ours and module not in library]
    lines = []
    unwanted = [module for module in foreign if re.sub(r"^_?cython.*", "cython", module.package) not in others]
    for module in {module.package: module for module in reversed(unwanted)}.values():
        lines.append(f"{module.package} is imported: {' -> '.join(module.chain)}")
    for what, modules, budget in (("of ours", ours, own), ("of the standard library", library, standard)):
        if len(modules) > budget:
            lines.append(f"{len(modules)} modules {what}, and {budget} are budgeted. Most come through")
            through = Counter(" -> ".join(chain) for m in modules for chain in (m.chain[:n] for n in (1, 2, 3)))
            lines += [f"    {number:4} {chain}" for chain, number in through.most_common(8)]
    return "\n".join(lines)


STANDARD = frozenset(sys.stdlib_module_names)

COMMAND = "from sgm_core.cli.app import main\ntry: main({!r})\nexcept SystemExit: pass"
BUDGETS = {
    "import sgm_core": (None, 5, 9, set()),
    "--help": (["--help"], 10, 23, set()),
    "train --help": (["train", "--help"], 27, 45, {"pluggy"}),  # plugins add options
    "sample --help": (["sample", "--help"], 8, 37, set()),
    "list": (["list"], 8, 22, set()),
    "show": (["show", "networks/unet"], 19, 41, {"annotated_types", "typing_extensions"}),
    "schema": (["schema"], 20, 46, {"annotated_types", "typing_extensions"}),
    "check": (
        ["check", "configs/digits.yaml"], 34, 60, {"annotated_types", "typing_extensions", "yaml", "_yaml", "cython"},
    ),
}  # fmt: skip
"""By command: its arguments, how many modules of ours, how many of the standard library, which other packages."""


@pytest.mark.parametrize("command", BUDGETS)
def test_a_command_stays_within_its_budget(command):
    arguments, own, standard, others = BUDGETS[command]
    report = run("import sgm_core" if arguments is None else COMMAND.format(arguments))
    found = [module for module in imports_of(report) if module.name not in at_start()]
    assert any(module.package == "sgm_core" for module in found)
    wrong = over_budget(found, own, standard, others)
    assert not wrong, f"sgm {command}\n{wrong}"


def test_the_message_has_the_chains():
    found = [module for module in imports_of(run("import sgm_core.errors, omegaconf")) if module.name not in at_start()]
    message = over_budget(found, own=1, standard=3, others={"cython", "_yaml", "yaml"})
    assert re.search(r"^omegaconf is imported: omegaconf( -> omegaconf\S*)*$", message, re.M)
    assert re.search(r"modules of ours, and 1 are budgeted. Most come through\n +\d sgm_core", message)
    assert "modules of the standard library, and 3 are budgeted" in message
    assert not over_budget(found, own=9, standard=1000, others={m.package for m in found} | {"cython"})


TRAINING = """
import sys
import lightning.pytorch, torch._dynamo  # with all that these import, of what is installed beside them
before = set(sys.modules)
from sgm_core.cli.app import main
code = main(["train", "digits", "trainer.max_steps=1", "trainer.accelerator=cpu", "--runs", {!r}, "--name", "a"])
print("MODULES", code, *(name for name in sys.modules if name not in before))
"""


def test_training_imports_what_its_config_names_and_no_extra(tmp_path, python):
    """Lightning imports torchmetrics, and that scipy and transformers where they are installed: seconds that are not
    ours to save. We add the base dependencies and the components that are used."""
    done = python("-c", TRAINING.format(str(tmp_path)), check=True, cwd=ROOT)
    [line] = [line for line in done.stdout.splitlines() if line.startswith("MODULES")]
    _, code, *names = line.split()
    assert code == "0"
    packages = {name.partition(".")[0] for name in names}
    base = {"sgm_core", "sgm_plugins", "annotated_types", "einops", "omegaconf", "pluggy", "PIL", "safetensors", "yaml"}
    foreign = {name for name in packages - base - STANDARD if not name.lstrip("_").startswith(("cython", "yaml"))}
    assert foreign <= {"lightning", "torch", "numpy", "antlr4", "attr"}
    plugins = {name for name in names if name.startswith("sgm_plugins.")}
    unused = (
        "embedders.hf",
        "embedders.clip",
        "openclip",
        "adapters",
        "autoencoding",
        "datamodules.web",
        "discriminators",
    )
    assert not {name for name in plugins if name.removeprefix("sgm_plugins.").startswith(unused)}
