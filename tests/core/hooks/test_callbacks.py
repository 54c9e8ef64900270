"""Lightning callbacks that plugins add to a run."""

import pytest
from lightning.pytorch.callbacks import Timer

import sgm_core as sgm
from sgm_core.hooks.callbacks import added_callbacks

ADDS = """
from lightning.pytorch.callbacks import Timer

@hookimpl
def lightning_callbacks(config): return [Timer({"days": days}) for days in config["vars"].values()]
"""


def test_a_plugin_adds_what_fits_the_config(make_plugin):
    make_plugin("sgm-a", ADDS)
    config = sgm.load_config("digits", overrides=["vars={x: 1, y: 2}"])
    with sgm.session():
        timers = added_callbacks(config)
    assert [type(timer) for timer in timers] == [Timer, Timer]
    assert [timer.time_remaining() for timer in timers] == [86400, 2 * 86400]
    assert added_callbacks(config) == []  # outside the session


@pytest.mark.parametrize("answer", ["Timer()", "[Timer]", "['timer']", "{}"])
def test_a_plugin_that_adds_something_else_is_left_out(make_plugin, capsys, answer):
    source = f"from lightning.pytorch.callbacks import Timer\n@hookimpl\ndef lightning_callbacks(): return {answer}"
    make_plugin("sgm-a", source)
    with sgm.session():
        assert added_callbacks(sgm.load_config("digits")) == []
    assert "plugin sgm-a:main 1.0 is left out: lightning_callbacks: ValueError: give a list" in capsys.readouterr().err
