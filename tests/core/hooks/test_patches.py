"""What plugins may propose for a config, and what becomes of it."""

import itertools
import json

import pytest
from support.foreign import foreign

import sgm_core as sgm
from sgm_core.cli.app import main
from sgm_core.config.tree import ConfigError
from sgm_core.errors import SgmError


def proposes(patches: object) -> str:
    return f"@hookimpl\ndef config_loaded(config): return {patches!r}\n"


def test_a_patch_sets_one_value_and_its_origin_names_the_plugin(make_plugin):
    make_plugin("sgm-a", proposes({"trainer.max_steps": 7, "data.batch_size": 3}))
    with sgm.session():
        config = sgm.load_config("digits")
    assert config["trainer.max_steps"] == 7
    assert config["data"] == {**sgm.load_config("digits")["data"], "batch_size": 3}
    assert str(config.node("data.batch_size").origin) == "plugin sgm-a:main 1.0"


def test_a_list_item_a_component_and_a_value_that_is_interpolated_can_be_proposed(make_plugin):
    sampler = {"use": "heun_edm", "num_steps": 4, "discretization": "edm"}
    patches = {"model.conditioner.embedders[0].ucg_rate": 0.5, "model.sampler": sampler, "vars.n": 6}
    make_plugin("sgm-a", proposes(patches))
    make_plugin("sgm-b", proposes({"data.batch_size": "${vars.n}"}))
    with sgm.session():
        config = sgm.load_config("digits")
        assert config["model.conditioner.embedders[0].ucg_rate"] == 0.5
        assert config["model.sampler"] == sampler
        assert config["data.batch_size"] == 6
        sgm.build_engine(config)


def test_interpolations_of_the_file_see_what_is_proposed(make_plugin, tmp_path):
    make_plugin("sgm-a", proposes({"vars.n": 5}))
    (tmp_path / "a.yaml").write_text("vars: {n: 2}\nseed: ${vars.n}\n")
    with sgm.session():
        assert sgm.load_config(tmp_path / "a.yaml")["seed"] == 5


def test_every_plugin_sees_the_config_without_patches_and_can_not_change_it(make_plugin):
    source = """
        @hookimpl
        def config_loaded(config):
            config["seen"] = config["seed"]
            config["seed"] = -1
            return {"vars." + __name__: config["seen"]}
    """
    make_plugin("sgm-a", source)
    make_plugin("sgm-b", proposes({"seed": 99}))
    make_plugin("sgm-c", source)
    with sgm.session():
        config = sgm.load_config("digits", overrides=["seed=4"])
    assert config["vars"] == {"throwaway_sgm_a": 4, "throwaway_sgm_c": 4}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("trainer.max_steps", "trainer.max_steps"),
        ("trainer", "trainer.max_steps"),
        ("model.conditioner.embedders.0", "model.conditioner.embedders[0].ucg_rate"),
    ],
)
def test_two_plugins_on_one_key_are_an_error_that_names_both_and_both_values(make_plugin, one, other):
    make_plugin("sgm-a", proposes({one: 11}), version="1.2")
    make_plugin("sgm-b", proposes({other: 22}))
    with pytest.raises(SgmError) as raised, sgm.session():
        sgm.load_config("digits")
    message = str(raised.value)
    assert f"plugin sgm-a:main 1.2 proposes {one} = 11\nplugin sgm-b:main 1.0 proposes {other} = 22" in message


def test_the_command_line_wins_over_a_patch_and_says_so(make_plugin, capsys):
    make_plugin("sgm-a", proposes({"trainer.max_steps": 11, "seed": 3}))
    make_plugin("sgm-b", proposes({"trainer.max_steps": 22}))
    with sgm.session():
        config = sgm.load_config("digits", overrides=["trainer.max_steps=5"])
    assert (config["trainer.max_steps"], config["seed"]) == (5, 3)
    assert capsys.readouterr().err.splitlines() == [
        f"note: 'trainer.max_steps=5' of the command line is used; plugin sgm-{name}:main 1.0 proposes "
        f"trainer.max_steps = {value}"
        for name, value in (("a", 11), ("b", 22))
    ]


def test_the_command_line_wins_inside_a_patch_and_around_one(make_plugin, capsys):
    make_plugin("sgm-a", proposes({"trainer": {"max_steps": 11, "max_epochs": 2}, "data.batch_size": 1}))
    with sgm.session():
        config = sgm.load_config("digits", overrides=["trainer.max_steps=5", "data={use: digits, batch_size: 9}"])
    assert config["trainer"] == {"max_steps": 5, "max_epochs": 2}
    assert config["data.batch_size"] == 9
    assert capsys.readouterr().err.count("note: ") == 2


def test_a_patch_that_is_wrong_is_an_error_of_the_config_with_its_plugin(make_plugin):
    make_plugin("sgm-a", proposes({"trainer.max_stepz": 1, "model.conditioner.embedders[7].ucg_rate": 0.1}))
    with sgm.session(), pytest.raises(ConfigError) as raised:
        sgm.load_config("digits")
    assert "plugin sgm-a:main 1.0 trainer.max_stepz: " in str(raised.value)
    assert "Did you mean 'max_steps'?" in str(raised.value)
    assert "plugin sgm-a:main 1.0 model.conditioner.embedders: there is no '7'" in str(raised.value)


BAD = {
    "no mapping": "[1]",
    "a key that is no path": "{'a..b': 1}",
    "a key that is no text": "{1: 1}",
    "a value that is not plain": "{'seed': object}",
    "one key inside another": "{'seed': 1, 'trainer': {}, 'trainer.max_steps': 2}",
    "an error": "1 / 0",
}


@pytest.mark.parametrize("answer", BAD.values(), ids=BAD)
def test_of_a_plugin_that_answers_nonsense_no_patch_is_applied(make_plugin, capsys, answer):
    make_plugin("sgm-a", f"@hookimpl\ndef config_loaded(config): return {answer}")
    make_plugin("sgm-b", proposes({"vars.b": 1}))
    with sgm.session() as session:
        config = sgm.load_config("digits")
        assert [plugin.entry.distribution for plugin in foreign(session.active)] == ["sgm-b"]
    assert config["vars"] == {"b": 1}
    assert config["seed"] == sgm.load_config("digits")["seed"]
    assert capsys.readouterr().err.startswith("warning: plugin sgm-a:main 1.0 is left out: config_loaded: ")


def test_a_plugin_can_load_configs_itself(make_plugin):
    make_plugin(
        "sgm-a",
        "import sgm_core\n" + proposes({}).replace("{}", "{'seed': 1 + sgm_core.load_config('digits')['seed']}"),
    )
    before = sgm.load_config("digits")["seed"]
    with sgm.session():
        assert sgm.load_config("digits")["seed"] == before + 1


@pytest.mark.parametrize("order", list(itertools.permutations("abcd")))
def test_the_config_does_not_depend_on_the_order_of_installation(make_plugin, monkeypatch, order):
    patches = {"trainer.max_steps": 7, "trainer.precision": 32, "vars.x.y": [1], "vars.x.z": "text"}
    for name in order:
        make_plugin(f"sgm-{name}", proposes(dict([list(patches.items())["abcd".index(name)]])))
    with sgm.session():
        text = sgm.load_config("digits").to_yaml()
    tree = sgm.load_config("digits", overrides=[f"{key}={json.dumps(value)}" for key, value in patches.items()])
    assert text == tree.to_yaml()


def test_explain_shows_which_plugin_a_value_is_from(make_plugin, capsys):
    make_plugin("sgm-a", proposes({"trainer.max_steps": 7}))
    assert main(["explain", "digits", "trainer.max_steps"]) == 0
    assert capsys.readouterr().out == "trainer.max_steps: 7  # plugin sgm-a:main 1.0\n"
    assert main(["explain", "digits", "trainer.max_steps", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["origin"] == {"from": "plugin", "plugin": "sgm-a:main", "version": "1.0"}


def test_check_calls_no_hook(make_plugin, capsys):
    make_plugin("sgm-a", proposes({"trainer.max_stepz": 7}))
    assert main(["check", "digits"]) == 0
    assert main(["explain", "digits"]) == 1
