"""No file that is read can run code: what would let one is found in the source."""

import ast
from collections.abc import Iterator

import pytest
from support.places import ROOT

FILES = sorted(
    path
    for folder in ("sgm_core", "sgm_plugins", "benchmarks", "examples")
    for path in (ROOT / folder).rglob("*.py")
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)  # benchmarks/.peers is others' code
)
SAFE = {  # what a call must be given, by what it ends with
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
    "trainer.fit": ("weights_only", True),  # where it is given a checkpoint
}
NEVER = (
    "pickle.load", "pickle.loads", "pickle.Unpickler", "joblib.load", "marshal.loads", "shelve.open",
    "torch.hub.load", "load_state_dict_from_url", "load_from_checkpoint", "yaml.load", "yaml.unsafe_load",
)  # fmt: skip
OWN = {("sgm_core/testing/common.py", "pickle.loads")}
"""Calls that read what they have written themselves: the kit takes a component through pickle and back."""


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def unsafe(source: str, file: str = "") -> list[str]:
    found = []
    for name, call in calls(ast.parse(source)):
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        for end, (argument, wanted) in SAFE.items():
            value = given.get(argument)
            applies = name == end and (end != "trainer.fit" or "ckpt_path" in given)
            if applies and not (isinstance(value, ast.Constant) and value.value is wanted):
                found.append(f"{file}:{call.lineno}: {name} without {argument}={wanted}")
        if any(name == end or name.endswith(f".{end}") for end in NEVER) and (file, name) not in OWN:
            found.append(f"{file}:{call.lineno}: {name}")
    return found


def test_every_reader_is_one_that_runs_no_code():
    sources = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in FILES}
    assert [line for file, source in sources.items() for line in unsafe(source, file)] == []
    readers = [name for source in sources.values() for name, _ in calls(ast.parse(source)) if name in SAFE]
    assert readers.count("torch.load") >= 3  # the test looks where they are
    imported = [file for file, source in sources.items() if "from torch import load" in source]
    assert imported == []


@pytest.mark.parametrize(
    "line",
    ["torch.load(f)", "torch.load(f, weights_only=False)", "torch.load(f, weights_only=flag)", "np.load(f)",
     "pickle.loads(b)", "torch.hub.load('a', 'b')", "yaml.load(t)", "Engine.load_from_checkpoint(f)",
     "trainer.fit(e, ckpt_path=p)"],
)  # fmt: skip
def test_each_unsafe_call_would_be_found(line):
    assert unsafe(f"x = [{line}]")
    assert not unsafe("torch.load(f, weights_only=True); np.load(f, allow_pickle=False); trainer.fit(e)")
