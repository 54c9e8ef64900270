import copy
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sgm_core as sgm
from sgm_core.config.api import Config, config_from
from sgm_core.config.interpolation import interpolate
from sgm_core.config.tree import ConfigError, Origin, Problems, from_plain, parse, plain

TOY = """\
seed: 3
model:
  use: toy
  width: ${vars.width}
  layers:
    - {kind: a, size: 1}
    - {kind: b, size: 2}
vars: {width: 8}
"""


@pytest.fixture
def toy(register, tmp_path) -> Path:
    """A config of an engine that is two numbers."""
    from lightning.pytorch import LightningModule

    @register("engines", "toy")
    class Toy(LightningModule):
        def __init__(self, width: int, layers: list[dict[str, Any]] | None = None) -> None:
            super().__init__()
            self.provenance = None
            self.width, self.layers = width, layers

    (tmp_path / "toy.yaml").write_text(TOY)
    return tmp_path / "toy.yaml"


# --- reading -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", 3),
        ("vars", {"width": 8}),
        ("model.width", 8),
        ("model.layers[1].kind", "b"),
        ("model.layers.1.kind", "b"),
        ("model.layers[0]", {"kind": "a", "size": 1}),
    ],
)
def test_values_by_path(toy, path, value):
    assert sgm.load_config(toy)[path] == value


@pytest.mark.parametrize(
    "path", ["", "no", "model.no", "model.layers[2]", "model.layers.x", "seed.x", "model..width", "[0]"]
)
def test_a_path_to_nothing_is_a_key_error(toy, path):
    with pytest.raises(KeyError):
        sgm.load_config(toy)[path]


def test_every_value_knows_where_it_came_from(toy):
    config = sgm.load_config(toy, overrides=["seed=4"])
    assert str(config.node("model.layers[1].kind").origin) == f"{toy}:7:14"
    assert str(config.node("seed").origin) == "override 'seed=4'"
    assert str(config.node("model.width").origin) == f"{toy}:4:10"


def test_what_a_config_gives_is_a_copy(toy):
    config = sgm.load_config(toy)
    config.to_dict()["model"]["layers"].clear()
    config["model.layers"].clear()
    assert len(config["model.layers"]) == 2


def test_overrides_and_several_files(toy, tmp_path):
    (tmp_path / "more.yaml").write_text("vars: {width: 9}")
    config = sgm.load_config(toy, str(tmp_path / "more.yaml"), overrides=["model.layers[0].size=7"])
    assert (config["model.width"], config["model.layers[0].size"]) == (9, 7)


# --- building ------------------------------------------------------------------------------------------------------


def test_an_engine_of_a_config_and_of_a_dict(toy):
    config = sgm.load_config(toy)
    for form in (config, config.to_dict()):
        engine = sgm.build_engine(form)
        assert (engine.width, engine.layers) == (8, [{"kind": "a", "size": 1}, {"kind": "b", "size": 2}])


def test_an_engine_carries_its_config_and_the_lock_of_its_components(toy):
    provenance = sgm.build_engine(sgm.load_config(toy)).provenance
    assert provenance.config == sgm.load_config(toy).to_dict()
    assert [(part["kind"], part["name"], part["distribution"]) for part in provenance.components] == [
        ("engines", "toy", "local")
    ]


def test_a_config_with_objects_of_python_is_built_and_not_carried():
    config = copy.deepcopy(sgm.load_config("digits").to_dict())
    network = config["model"]["network"] = sgm.build("networks", config["model"]["network"])
    engine = sgm.build_engine(config)
    assert engine.model.diffusion_model is network
    assert engine.provenance is None


def test_a_path_of_python_is_carried_as_a_text(toy):
    engine = sgm.build_engine({"model": {"use": "toy", "width": 1}, "vars": {"folder": Path("/x"), "n": (1, 2)}})
    assert engine.provenance.config["vars"] == {"folder": "/x", "n": [1, 2]}


def test_a_number_of_numpy_is_built_and_not_carried(toy):
    engine = sgm.build_engine({"model": {"use": "toy", "width": 1}, "vars": {"x": np.float64(0.5)}})
    assert engine.provenance is None


def test_an_engine_that_is_given_is_the_engine(toy):
    engine = sgm.build_engine(sgm.load_config(toy))
    assert sgm.build_engine({"model": engine}) is engine


def test_parts_and_their_defaults(toy):
    from lightning.pytorch import Trainer

    config = sgm.load_config(toy, overrides=["checkpoint.keep_last=1"])
    assert config.build("checkpoint").keep_last == 1
    assert config.build("checkpoint").every_n_steps == 1000
    assert config.build("trainer") is Trainer
    assert config.build("data") is None
    assert config.build("vars") == {"width": 8}
    assert sgm.load_config(toy, overrides=["trainer.max_steps=5"]).build("trainer").keywords == {"max_steps": 5}
    with pytest.raises(KeyError, match="Did you mean 'checkpoint'"):
        config.build("checkpoints")


def test_one_part_is_built_only_if_all_are_right(toy):
    with pytest.raises(ConfigError, match=r"trainer\.max_step: 'trainer' has no 'max_step'"):
        sgm.load_config(toy, overrides=["trainer.max_step=5"]).build("checkpoint")


def test_check_gives_the_components_each_once():
    found = [(entry.kind, entry.name) for entry in sgm.check(sgm.load_config("digits"))]
    assert len(found) == len(set(found))
    assert {
        ("engines", "diffusion"),
        ("embedders", "class"),
        ("optimizers", "adamw"),
        ("datamodules", "digits"),
    } <= set(found)


def test_the_top_level_is_checked_too():
    with pytest.raises(ConfigError) as caught:
        sgm.check({"modle": "diffusion", "sead": 3})
    assert [str(problem).split("\n")[0] for problem in caught.value.problems] == [
        "config modle: a config has no 'modle'. Did you mean 'model'?",
        "config sead: a config has no 'sead'. Did you mean 'seed'?",
    ]


@pytest.mark.parametrize("given", ["digits", ["a"], None, 3])
def test_what_is_no_config_is_refused(given):
    with pytest.raises(ConfigError, match=r"config: expected a mapping \(model, data, trainer"):
        sgm.build_engine(given)


def test_problems_of_reading_and_of_checking_are_one_error(toy):
    with pytest.raises(ConfigError) as caught:
        sgm.load_config(toy, overrides=["nonsense", "model.width=x", "sede=1", "vars.a=${b}"])
    assert [str(problem).split("'")[1] for problem in caught.value.problems] == [
        "model.width=x",
        "nonsense",
        "sede=1",
        "vars.a=${b}",
    ]


def test_dicts_of_python_are_taken_as_they_are(toy):
    """They are what a checkpoint carries: resolved."""
    config = config_from({"vars": {"a": "${b}", "b": "\\${c}"}})
    assert config["vars"] == {"a": "${b}", "b": "\\${c}"}


# --- nothing runs --------------------------------------------------------------------------------------------------


def test_dotted_texts_anywhere_import_and_run_nothing(make_distribution, tmp_path):
    folder = make_distribution("sgm-trap", {}, {"throwaway_trap.py": "raise SystemExit('imported')"})
    (tmp_path / "a.yaml").write_text(
        "extends: [throwaway_trap.yaml]\n"
        "throwaway_trap.X: {_target_: throwaway_trap.X, target: throwaway_trap.X}\n"
        "model: {use: throwaway_trap, network: throwaway_trap.X}\n"
        "data: throwaway_trap:X\n"
        "trainer: {callbacks: [throwaway_trap.X], logger: {use: 'throwaway_trap:X'}, strategy: throwaway_trap.X}\n"
        "vars: {a: '${throwaway_trap:X}', b: throwaway_trap.X, c: !!python/name:throwaway_trap.X '' }\n"
    )
    (tmp_path / "throwaway_trap.yaml").write_text("seed: throwaway_trap.X\n")
    with pytest.raises(ConfigError) as caught:
        sgm.check(sgm.load_config(tmp_path / "a.yaml", overrides=["model.sampler=throwaway_trap.X"]))
    assert len(caught.value.problems) == 8
    assert folder.exists()
    assert "throwaway_trap" not in sys.modules


# --- to_yaml -------------------------------------------------------------------------------------------------------


def reread(config: Config) -> dict[str, Any]:
    """A config, as the file that it is saved as is read."""
    tree, problems = parse(config.to_yaml(), "config.yaml"), Problems()
    interpolate(tree, problems)
    assert not problems.found
    return plain(tree)


@pytest.mark.parametrize(
    "value",
    [
        1e-05, 1e22, -0.0, 5e-324, math.inf, -math.inf, 2**70, True, None,
        "1e-05", "1e3", "0x1F", "0o17", "1_000", "12", "true", "yes", "no", "on", "Null", "~", "", " ", ".inf", "1:30",
        "2020-01-01", "=", "<<", "???", "a: b", "# c", "- d", "[x", "{", "@", "%", "&a", "*a", "!t", "|", ">", "'", '"',
        "two\nlines", "two\n\nlines\n", "trailing  \n ", "\ttab", "\r\n", "\x85",
        "a\u2028\n\ufeff", "größe 日本 \U0001f600", "\x00\x1b",
        "${a.b}", "\\${a}", "\\\\${a}", "x${a}y${", "$", "\\", "long " * 60, "/work/run",
        [], {}, [[]], [1, [2, {"a": []}]], [0.5, None, "x"],
        {"a.b": 1, 4: 2, True: 3, None: 4, "": 5, "4": 6, "x" * 200: 7, "\x85": 8},
    ],
)  # fmt: skip
def test_what_is_saved_is_read_as_it_was(value):
    config = config_from({"vars": {"x": value}})
    again = reread(config)
    assert again == config.to_dict()
    assert repr(again) == repr(config.to_dict())


def test_nan_is_saved_too():
    assert math.isnan(reread(config_from({"x": math.nan}))["x"])


def test_short_lists_stand_on_one_line_and_keys_keep_their_order():
    assert config_from({"b": [1, 2], "a": {"lr": 1e-05, "s": "yes"}}).to_yaml() == (
        "b: [1, 2]\na:\n  lr: 1.0e-05\n  s: 'yes'\n"
    )


def test_a_shipped_config_is_saved_and_read_with_nothing_lost(tmp_path):
    config = sgm.load_config("digits", overrides=["vars={title: '\\${x}'}"])
    (tmp_path / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    again = sgm.load_config(tmp_path / "config.yaml")
    assert again.to_dict() == config.to_dict()
    assert again["vars.title"] == "${x}"


def test_paths_are_saved_as_texts():
    assert reread(config_from({"a": Path("/x/y")})) == {"a": "/x/y"}


def test_objects_of_python_can_not_be_saved():
    with pytest.raises(ConfigError, match=r"config model\.network: an object of the type Origin cannot be saved"):
        config_from({"model": {"network": Origin("x")}, "a": 1}).to_yaml()


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SCALAR = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | TEXT
    | st.from_regex(r"[-+0-9.eExo_:]{1,6}")
)
TREES = st.recursive(
    SCALAR,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT | st.integers(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(TEXT, TREES, max_size=4))
def test_any_plain_data_is_read_as_it_was_saved(value):
    assert reread(Config(from_plain(value, Origin("here")))) == value


def test_saved_configs_quote_only_what_needs_it():
    from sgm_core.config.api import config_from

    text = config_from({"network": {"num_steps": 50, "note": "no", "name": "null", "n": "nearly"}}).to_yaml()
    assert text == "network:\n  num_steps: 50\n  note: 'no'\n  name: 'null'\n  n: nearly\n"
