"""One JSON Schema of every installed component: it takes what `sgm check` takes, and refuses what that refuses."""

import copy
import json
import re

import pytest
import yaml
from jsonschema import Draft202012Validator
from support.shipped import usable_configs

from sgm_core.cli.app import main
from sgm_core.config.api import config_from
from sgm_core.config.compose import shipped_configs
from sgm_core.config.tree import ConfigError, plain, read_file
from sgm_core.kinds import KINDS
from sgm_core.registry import BUILTIN, index
from sgm_plugins.tools.catalog.source.json_schema import config_schema

DIGITS = plain(read_file(shipped_configs()["digits"]))


@pytest.fixture(scope="module")
def validator():
    return Draft202012Validator(config_schema())


def problems(validator, config):
    """The places of what is refused."""
    return {error.json_path.removeprefix("$").removeprefix(".") for error in validator.iter_errors(config)}


def with_value(path, value):
    """The digits config with one value replaced, or taken away where the value is `...`."""
    config = copy.deepcopy(DIGITS)
    *steps, last = [int(step) if step.isdecimal() else step for step in re.split(r"[.\[\]]+", path)]
    here = config
    for step in steps:
        here = here[step]
    if value is ...:
        del here[last]
    else:
        here[last] = value
    return config


def test_the_schema_is_one_and_its_references_hold(validator):
    Draft202012Validator.check_schema(validator.schema)
    text = json.dumps(validator.schema, allow_nan=False)
    for reference in set(re.findall(r'"\$ref": "#/\$defs/([^"]+)"', text)):
        assert reference.replace("~1", "/").replace("~0", "~") in validator.schema["$defs"]


def test_every_component_has_a_definition_with_its_description(validator):
    definitions = validator.schema["$defs"]
    used = {name for name in definitions if name in KINDS}
    assert {"engines", "networks", "samplers", "embedders", "callbacks", "optimizers"} <= used
    for entry in index.entries():
        if entry.distribution == BUILTIN and entry.kind in used:
            assert len(definitions[f"{entry.kind}/{entry.qualified}"]["description"].splitlines()[0]) > 10


@pytest.mark.parametrize("name", usable_configs())
def test_every_shipped_config_fits(validator, name):
    assert problems(validator, plain(read_file(shipped_configs()[name]))) == set()


FINE = {
    "model.first_stage": {"use": "identity"},
    "model.network": "${vars.network}",
    "model.network.model_channels": "${vars.size}",
    "model.network.channel_mult": "${vars.mult}",
    "model.conditioner.embedders": "${vars.embedders}",
    "model.conditioner.embedders[0].ucg_rate": "???",
    "model.conditioner.embedders[0].embedder.use": "sgm-core:class",
    "model.sampler.discretization": "sgm-core:edm",
    "model.optimizer": "adamw",
    "model.ema": None,
    "model.network.num_res_blocks": [1, 2],
    "seed": "${vars.seed}",
    "vars": {"anything": [1, {"at": "all"}]},
    "trainer.logger": [{"use": "csv"}, "tensorboard"],
    "trainer.callbacks": {"use": "gradient_accumulation", "scheduling": {"2": 4}},
    "trainer.precision": "bf16-mixed",
    "trainer.limit_val_batches": 0.5,
    "data": ...,
}
WRONG = {
    "nope": 1,
    "model": ...,
    "model.nope": 1,
    "model.use": "difusion",
    "model.network": "unet",
    "model.network.in_channels": "1",
    "model.network.model_channels": 0,
    "model.network.channel_mult": 2,
    "model.network.chanel_mult": [1],
    "model.network.out_channels": ...,
    "model.denoiser.scaling": "edmm",
    "model.denoiser.scaling.sigma_data": -1,
    "model.sampler.guider": {"use": "cfg"},
    "model.sampler.guider.scal": 1,
    "model.sampler.guider.use": ...,
    "model.sampler.num_steps": 1.5,
    "model.loss_fn.loss_type": "l3",
    "model.conditioner.embedders": {"input_key": "cls"},
    "model.conditioner.embedders[0].ucg_rate": 2,
    "model.conditioner.embedders[0].embedder": "samplers",
    "model.first_stage": 3,
    "model.optimizer.betas": [0.9],
    "model.optimizer.params": [],
    "trainer.max_stps": 3,
    "trainer.default_root_dir": "x",
    "trainer.callbacks": ["early_stopping"],
    "trainer.precision": "half",
    "checkpoint.every_n_steps": 0,
    "checkpoint.keep": 1,
    "seed": -1,
    "data.batch_size": True,
}


@pytest.mark.parametrize("path", FINE)
def test_what_the_checker_takes_fits(validator, path):
    config = with_value(path, FINE[path])
    assert problems(validator, config) == set()
    if not re.search(r"\$\{|\?\?\?", str(FINE[path])) and "scheduling" not in str(FINE[path]):
        assert config_from(config).checked


@pytest.mark.parametrize("path", WRONG)
def test_a_planted_error_is_refused_by_both_and_where_it_is(validator, path):
    config = with_value(path, WRONG[path])
    with pytest.raises(ConfigError):
        assert config_from(config).checked
    found = problems(validator, config)
    assert found
    # the value, a part of it, or the mapping that has the key
    assert all(path.startswith(place) or place.startswith(path) for place in found)


def test_several_errors_are_all_found(validator):
    config = copy.deepcopy(DIGITS)
    config["model"]["network"]["in_channels"] = "1"
    config["model"]["sampler"]["guider"]["scal"] = 1
    config["checkpoint"]["keep_last"] = -1
    assert problems(validator, config) == {
        "model.network.in_channels", "model.sampler.guider", "checkpoint.keep_last",
    }  # fmt: skip


VALUES = [None, True, 0, 2, -1, 0.5, -0.5, "x", "edm", "adamw", "", [], [1], ["a"], [0.1, 0.2], {}, {"a": 1}]
VALUES += [{"use": "edm"}, {"use": "nope"}, {"use": "heun_edm", "discretization": "edm", "num_steps": 3}]
"""No 1.0, which is an integer to JSON Schema and none to us."""


def paths_of(value, path=""):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield f"{path}.{key}".removeprefix(".")
        yield from paths_of(child, f"{path}.{key}")


def test_schema_and_checker_agree_on_any_value_in_any_place(validator):
    for path in paths_of(DIGITS):
        for value in VALUES:
            config = with_value(path, value)
            assert (problems(validator, config) == set()) == fits(config), (path, value)


def fits(config):
    try:
        return bool(config_from(config).checked)
    except ConfigError:
        return False


EXTENDING = """
    extends: digits
    model:
      network: {adm_in_channels: 64}
      sampler: {num_steps: 20, guider: {scale: 2.0}}
      first_stage: identity
      denoiser: {use: discrete}
    trainer: {max_steps: 1000}
"""


def test_a_config_that_extends_another_may_leave_things_out_but_not_misspell(validator):
    config = yaml.safe_load(EXTENDING)
    assert problems(validator, config) == set()
    config["model"]["network"] = {"adm_in_chanels": 64}
    config["model"]["sampler"]["guider"]["scale"] = "2"
    config["model"]["denoiser"]["use"] = "discret"
    assert problems(validator, config) == {"model.network", "model.sampler.guider.scale", "model.denoiser.use"}
    del config["extends"]
    assert "model" in problems(validator, config)


def test_an_installed_plugin_is_in_it_and_a_broken_one_takes_nothing_from_it(make_distribution):
    source = '''
        from typing import Annotated

        from annotated_types import Ge
        from torch import nn


        class Thing(nn.Module):
            """A thing for tests.

            Args:
                size: how large it is.
            """

            def __init__(self, size: Annotated[int, Ge(1)]) -> None: ...
    '''
    points = {"thing": "throwaway_thing:Thing", "broken": "throwaway_broken:Broken", "class": "throwaway_thing:Thing"}
    files = {"throwaway_thing.py": source, "throwaway_broken.py": "def f(:\n"}
    make_distribution("throwaway-thing", {"sgm.embedders": points}, files)
    schema = config_schema()
    validator = Draft202012Validator(schema)
    definition = schema["$defs"]["embedders/throwaway-thing:thing"]
    assert definition["description"] == "A thing for tests.\nthrowaway-thing 1.0"
    assert definition["properties"]["size"]["description"] == "how large it is."
    assert "SyntaxError" in schema["$defs"]["embedders/throwaway-thing:broken"]["description"]
    place = "model.conditioner.embedders[0].embedder"
    assert problems(validator, with_value(place, {"use": "thing", "size": 3})) == set()
    assert problems(validator, with_value(place, {"use": "thing", "size": 0})) == {f"{place}.size"}
    assert problems(validator, with_value(place, {"use": "thing"})) == {place}
    assert problems(validator, with_value(place, {"use": "broken", "what": "ever"})) == set()
    # a taken name is reached by its qualified spelling only
    assert problems(validator, with_value(place, {"use": "throwaway-thing:class", "size": 3})) == set()
    assert problems(validator, with_value(place, {"use": "class", "size": 3})) == {place}


def test_a_file_and_the_terminal_get_the_same(tmp_path, capsys):
    assert main(["schema", "--out", str(tmp_path / "new" / "schema.json")]) == 0
    capsys.readouterr()
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == (tmp_path / "new" / "schema.json").read_text()
