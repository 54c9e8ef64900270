"""Whatever an old config holds: no traceback, and what is written is read again by `sgm check`."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.old_configs import OLD, STABLE

import sgm_core as sgm
from sgm_core.config.tree import ConfigError
from sgm_core.errors import SgmError
from sgm_plugins.tools.convert.config import convert_config
from sgm_plugins.tools.convert.packages import MODULES

GENERATIVE = yaml.safe_load(OLD)
LIGHTNING = {
    "modelcheckpoint": {"params": {"every_n_train_steps": 5}},
    "callbacks": {"image_logger": {"target": "main.ImageLogger", "params": {"log_images_kwargs": {"N": 2}}}},
    "trainer": {"devices": "0,", "benchmark": True},
}
TREES = [{**GENERATIVE, "lightning": LIGHTNING}, {"model": STABLE, "lightning": LIGHTNING}]
ODD = ["", "???", "yes", "${model}", "${nothing.x}", "${oc.env:HOME}", "${a", "__is_first_stage__", "0,1", "# x",
       "a\nb", "\x85", "\u2028x", "\ufffe", "\x9b31m", "\u202e", "\x7f", "x" * 2000, "sgm.", "..",
       "torch.nn.Identity"]  # fmt: skip
KEYS = ["target", "params", "use", "extends", "a.b", "a[0]", "", "k" * 300, "\u2028", 1, None, True, "num_steps", "key",
        "emb_models", "input_key", "timesteps", "type", "scale_lr", "base_learning_rate", "trainer"]  # fmt: skip
TARGETS = sorted(f"{module}.{name}" for module, names in MODULES.items() for name in names)
NUMBERS = st.sampled_from([0, -1, 3, 10**30, 1e308, float("inf"), float("nan")])
SCALARS = st.none() | st.booleans() | NUMBERS | st.sampled_from(ODD) | st.text(max_size=4)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3)
        | st.builds(lambda target, params: {"target": target, "params": params}, st.sampled_from(TARGETS), inner)
    ),
    max_leaves=6,
)


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every mapping or list in a tree, with each of its keys or positions."""
    children = list(tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ())
    return [*((tree, key) for key, _ in children), *(place for _, child in children for place in places(child))]


def deep(value: Any, levels: int) -> Any:
    for _ in range(levels):
        value = {"target": "sgm.models.autoencoder.AEIntegerWrapper", "params": {"model": value}}
    return value


@st.composite
def old_configs(draw: st.DrawFn) -> Any:
    """A config in which some values are others, gone, elsewhere, or under another key."""
    tree = copy.deepcopy(draw(st.sampled_from(TREES)))
    for _ in range(draw(st.integers(1, 6))):
        found = places(tree)
        if not found:
            break
        parent, key = found[draw(st.integers(0, len(found) - 1))]
        match draw(st.sampled_from(["other", "other", "gone", "moved", "named", "deep", "new"])):
            case "other":
                parent[key] = draw(VALUES)
            case "gone":
                del parent[key]
            case "moved":
                source, name = found[draw(st.integers(0, len(found) - 1))]
                parent[key] = copy.deepcopy(source[name])
            case "named" if isinstance(parent, dict):
                parent[draw(st.sampled_from(KEYS))] = parent.pop(key)
            case "deep":
                parent[key] = deep(parent[key], draw(st.sampled_from([2, 20, 45, 60])))
            case "new" if isinstance(parent, dict):
                parent[draw(st.sampled_from(KEYS))] = draw(VALUES)
    return tree


class Dumper(yaml.SafeDumper):
    """Without aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def converts(file: Path) -> None:
    """It is written, each gap has a line, and the check has no more to say than what is to be given."""
    try:
        made = convert_config([file])
    except SgmError:
        return
    assert all(character.isprintable() or character == "\n" for character in made.text)
    assert all(gap.origin.line for gap in made.gaps)
    new = file.with_name("new.yaml")
    new.write_text(made.text, encoding="utf-8")
    try:
        sgm.load_config(new).check()
    except ConfigError as error:
        problems = [str(problem) for problem in error.problems if "this value must be given" not in problem.message]
    else:
        problems = []
    assert problems == []
    assert made.gaps or "???" not in made.text


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(old_configs())
@example({"model": {"target": "ldm.models.autoencoder.VQModel", "params": {"lossconfig": {"target": "my.Loss"}}}})
@example({"model": {"target": "sgm.models.diffusion.DiffusionEngine", "params": {"batch2model_keys": [{}, 3]}}})
@example({"model": deep(1, 48)})
def test_any_tree(tmp_path, tree):
    file = tmp_path / "old.yaml"
    file.write_text(yaml.dump(tree, Dumper=Dumper, sort_keys=False), encoding="utf-8", errors="backslashreplace")
    converts(file)


LINES = ["# \u2028 c\x7f", "# \ufeff \u202e", "!!python/tuple [1]", "&a x: 1", "x: *a", "<<: *a", "%YAML 1.1", "---",
         "model: 3", "\t", "  - ", "? a", "'", '"', "{", "x: 0x" + "f" * 6000]  # fmt: skip


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, OLD.count("\n")), st.sampled_from(LINES), st.booleans()), min_size=1, max_size=3)
)
def test_any_line(tmp_path, changes):
    lines = OLD.split("\n")
    for number, text, beside in changes:
        lines[number] = f"{lines[number]}  {text}" if beside else text
    file = tmp_path / "old.yaml"
    file.write_text("\n".join(lines), encoding="utf-8")
    converts(file)


@pytest.mark.parametrize(
    "data", [b"\xff\xfe", b"\x00", b"model: \x80", b"[" * 5000, b"model: " + b"[" * 99 + b"]" * 99]
)
def test_any_bytes(tmp_path, data):
    file = tmp_path / "old.yaml"
    file.write_bytes(data)
    converts(file)
