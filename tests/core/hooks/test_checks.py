"""What plugins find wrong with a whole config: `check_config`."""

import re

import pytest

import sgm_core as sgm
from sgm_core.cli.app import main
from sgm_core.config.tree import ConfigError
from sgm_core.hooks.checks import check_with_plugins

LIMITS = """
@hookimpl
def check_config(config, training):
    if config["trainer.max_steps"] > 100:
        yield "trainer.max_steps", "our cluster allows 100 steps"
    if not training:
        yield "it is no training"
"""


def test_a_problem_is_shown_with_the_line_of_its_path(make_plugin):
    make_plugin("sgm-a", LIMITS)
    with sgm.session(), pytest.raises(ConfigError) as error:
        check_with_plugins(sgm.load_config("digits"))
    [problem] = error.value.problems
    assert re.search(r"digits.yaml:\d+:\d+ trainer.max_steps: our cluster allows 100 steps$", str(problem))


def test_a_path_that_is_not_there_has_the_line_of_what_would_hold_it(make_plugin):
    make_plugin("sgm-a", "@hookimpl\ndef check_config(): return [('trainer.precision', 'give one')]")
    config = sgm.load_config("digits")
    with sgm.session(), pytest.raises(ConfigError) as error:
        check_with_plugins(config)
    assert error.value.problems[0].origin == config.node("trainer").origin


def test_a_text_alone_is_a_note(make_plugin):
    make_plugin("sgm-a", LIMITS)
    config = sgm.load_config("digits", overrides=["trainer.max_steps=3"])
    with sgm.session():
        assert "it is no training" in check_with_plugins(config, training=False)
        assert "it is no training" not in check_with_plugins(config)


def test_outside_a_session_only_the_built_in_checks_are_asked(make_plugin):
    make_plugin("sgm-a", LIMITS)
    check_with_plugins(sgm.load_config("digits"))
    with pytest.raises(ConfigError, match=r"network"):  # the widths
        check_with_plugins(sgm.load_config("digits", overrides=["model.network.adm_in_channels=64"]))


@pytest.mark.parametrize("answer", ["3", "[3]", "[('a', 'b', 'c')]"])
def test_nonsense_leaves_the_plugin_out(make_plugin, capsys, answer):
    make_plugin("sgm-a", f"@hookimpl\ndef check_config(): return {answer}")
    with sgm.session():
        check_with_plugins(sgm.load_config("digits"))
    assert "plugin sgm-a:main 1.0 is left out: check_config:" in capsys.readouterr().err


def test_train_reports_it_before_a_folder_is_made(make_plugin, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_plugin("sgm-a", LIMITS)
    assert main(["train", "digits", "--name", "a"]) == 1
    assert "our cluster allows 100 steps" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
