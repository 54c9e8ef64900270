"""Recipes of somebody else."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sgm_core.errors import SgmError
from sgm_plugins.tools.sampling.recipe import Recipe
from sgm_plugins.tools.sampling.stranger import LONGEST_RECIPE, SCHEMA, found_file, shared_name

GOOD = {"index": 0, "model": "m", "seeds": [0], "cond": {"cls": [3]}}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"index": Infinity, "model": "x"}',
        '{"index": ' + "9" * 5000 + "}",
        "5",
        "[]",
        "{}",
        "",
        json.dumps({**GOOD, "prompts": ["x" * LONGEST_RECIPE]}),
        *(
            json.dumps({**GOOD, key: value})
            for key, value in (
                ("model", 5), ("model", {}), ("seeds", [0.5]), ("seeds", [True]), ("seeds", list(range(60_000))),
                ("cond", {"cls": [{}]}), ("cond", {"cls": []}), ("cond", {"cls": [None]}), ("facts", [1]),
                ("facts", {"components": 5}), ("facts", {"components": [[1, 2, 3, 4]]}), ("config", [1]),
                ("watermark", 5), ("size", [8.0, 8.0]), ("size", [8]), ("steps", 10**12), ("steps", True),
                ("scale", float("nan")), ("scale", 10**400), ("frames", 10**9), ("guider", 5),
                ("sampler", {"use": "substep", "num_levels": 10**9}), ("loras", "abc"), ("raw", 1), ("unknown", 1),
            )
        ),
    ],
    ids=lambda text: text[:60],
)  # fmt: skip
def test_what_does_not_fit_is_one_message(text):
    with pytest.raises(SgmError) as refused:
        Recipe.from_json(text)
    assert len(str(refused.value)) < 300
    assert "\n" not in str(refused.value)


@given(st.dictionaries(st.sampled_from(sorted(SCHEMA)), JSON, max_size=6))
@example({"strength": 0.5})
@example({"facts": {"components": [["samplers", "a", "b", "c"]], "\x1b[2J": "\x1b[2J"}})
def test_any_json_is_a_recipe_or_one_message(fields):
    try:
        recipe, _ = Recipe.from_json(json.dumps({**GOOD, **fields}))
    except SgmError:
        return
    assert all(line.isprintable() for line in recipe.differences({}))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("runs/digits", "runs/digits"),
        ("./a.png", "a.png"),
        ("/home/alice/runs/s", "s"),
        ("../alice/x.safetensors:0.5", "x.safetensors:0.5"),
        ("~/x.png", "x.png"),
        ("C:\\Users\\alice\\x.png", "x.png"),
        ("<in memory>", "<in memory>"),
    ],
)
def test_a_shared_name_tells_nothing_of_the_machine(path, name):
    assert shared_name(path) == name
    assert shared_name(name) == name


def test_a_file_is_found_by_name_and_digest_and_nothing_else_is_looked_at(tmp_path, monkeypatch):
    (tmp_path / "run/samples").mkdir(parents=True)
    (tmp_path / "here/deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    for path in ("../secret", "deep/model", "model"):
        Path(path).write_text("x")
    Path("link").symlink_to("../secret")
    asked = []

    def digest_of(path: Path) -> str:
        asked.append(str(path))
        return "right"

    beside = tmp_path / "run/samples/a.png"
    assert found_file("model", beside, "right", digest_of) == "model"
    assert found_file("deep/model", beside, "right", digest_of) == str(Path("deep/model"))
    assert found_file("run", beside, "right", digest_of) == str(tmp_path / "run")
    asked.clear()
    for name in ("../secret", str(tmp_path / "secret"), "link", "~/x", "deep/../../secret"):
        assert found_file(name, beside, "right", digest_of) is None
    assert asked == []
    assert found_file("model", beside, "wrong", digest_of) is None
    assert found_file("model", beside, None, digest_of) is None


GUIDED = {
    "use": "interval",
    "guider": {"use": "stack", "guiders": [{"use": "autoguidance", "scale": 2.0, "model": "M"}]},
}


@pytest.mark.parametrize("key", ["guider", "sampler"])
def test_a_recipe_makes_nobody_read_the_model_of_a_guider(key):
    component = {"use": "euler_edm", "guider": GUIDED} if key == "sampler" else GUIDED
    with pytest.raises(SgmError, match="its guider is autoguidance, by a model that the recipe names"):
        Recipe.from_json(json.dumps({**GOOD, key: component}))


def test_no_path_of_this_machine_is_in_the_guider_of_a_shared_recipe():
    text = json.dumps(GUIDED).replace('"M"', '"/home/someone/worse.ckpt"')
    recipe = Recipe("m", guider=json.loads(text), facts={"samplers": [{"guider": json.loads(text)}]})
    shared = recipe.to_json(0)
    assert "someone" not in shared
    assert shared.count('"worse.ckpt"') == 2
    assert recipe.to_json(0, with_paths=True).count("/home/someone/worse.ckpt") == 2
