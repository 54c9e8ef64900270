"""Lightning callbacks that plugins add to a run."""

from pathlib import Path

import pytest
from lightning.pytorch.callbacks import Timer

import sgm_core as sgm
from sgm_core.hooks.callbacks import added_callbacks
from sgm_core.hooks.specs import RunParts

ADDS = """
from lightning.pytorch.callbacks import Timer

@hookimpl
def lightning_callbacks(config): return [Timer({"days": days}) for days in config["vars"].values()]
"""
SEES = """
from lightning.pytorch.callbacks import Timer

@hookimpl
def lightning_callbacks(run, config):
    assert run.config.to_dict() == config
    print(run.folder, run.metrics.name, run.resumed, run.callbacks)
    return []
"""


def parts(*overrides: str, callbacks=None, resumed=False) -> RunParts:
    config = sgm.load_config("digits", overrides=overrides)
    return RunParts(Path("runs/a"), config, Path("runs/a/metrics.jsonl"), resumed, callbacks)


def names(run: RunParts) -> list[str]:
    return [type(callback).__name__ for callback in added_callbacks(run)]


def test_a_plugin_adds_what_fits_the_config(make_plugin):
    make_plugin("sgm-a", ADDS)
    run = parts("vars={x: 1, y: 2}")
    with sgm.session():
        timers = [callback for callback in added_callbacks(run) if isinstance(callback, Timer)]
    assert [timer.time_remaining() for timer in timers] == [86400, 2 * 86400]
    assert added_callbacks(run) == []  # outside the session


def test_a_plugin_sees_the_run(make_plugin, capsys):
    make_plugin("sgm-a", SEES)
    with sgm.session():
        added_callbacks(parts(callbacks=[], resumed=True))
    assert capsys.readouterr().out == "runs/a metrics.jsonl True []\n"


@pytest.mark.parametrize("answer", ["Timer()", "[Timer]", "['timer']", "{}"])
def test_a_plugin_that_adds_something_else_is_left_out(make_plugin, capsys, answer):
    source = f"from lightning.pytorch.callbacks import Timer\n@hookimpl\ndef lightning_callbacks(): return {answer}"
    make_plugin("sgm-a", source)
    with sgm.session():
        assert "Timer" not in names(parts())
    assert "plugin sgm-a:main 1.0 is left out: lightning_callbacks: ValueError: give a list" in capsys.readouterr().err


def test_the_built_in_plugins_give_every_run_its_guard_report_bar_and_grids():
    usual = {"ComparesMoments", "FiniteGuard", "KeepsFreedMemory", "Reporter", "DataWait", "StepProgressBar"}
    usual.add("ImageLogger")
    with sgm.session():
        assert set(names(parts())) == usual
        assert set(names(parts(callbacks=[]))) == usual - {"ImageLogger"}
        assert set(names(parts("nonfinite.check=false"))) == usual - {"FiniteGuard"}
        assert set(names(parts("report.write=false"))) == usual - {"Reporter"}
        [reporter] = [c for c in added_callbacks(parts("report.interval=3")) if type(c).__name__ == "Reporter"]
        assert reporter.interval == 3
        assert set(names(parts("trainer.enable_progress_bar=false"))) == usual - {"StepProgressBar"}


def test_they_are_there_where_third_parties_are_not_and_a_failure_of_theirs_is_not_left_out(make_plugin, monkeypatch):
    make_plugin("sgm-a", ADDS)
    monkeypatch.setenv("SGM_PLUGINS", "off")
    run = parts("vars={x: 1}")
    with sgm.session():
        assert {"FiniteGuard", "Reporter"} <= set(names(run))
        assert "Timer" not in names(run)
        monkeypatch.setattr("sgm_plugins.tools.nonfinite.guard.FiniteGuard", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            added_callbacks(run)


def test_built_in_plugins_are_no_part_of_the_lock(make_plugin):
    from sgm_core.hooks.session import hook_entries

    make_plugin("sgm-a", ADDS)
    with sgm.session():
        assert [entry.distribution for entry in hook_entries()] == ["sgm-a"]
