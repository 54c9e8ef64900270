"""TensorBoard gets the numbers and the pictures, and a missing extra is found at import."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest


def test_a_missing_tensorboard_is_found_when_the_module_is_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # how Python marks what cannot be imported
    monkeypatch.delitem(sys.modules, "sgm_plugins.loggers.tensorboard", raising=False)
    with pytest.raises(ModuleNotFoundError) as caught:
        importlib.import_module("sgm_plugins.loggers.tensorboard")
    assert caught.value.name == "tensorboard"


@pytest.fixture
def make():
    """The class, where the extra is installed."""
    pytest.importorskip("tensorboard")
    from sgm_plugins.loggers.tensorboard import TensorBoardMetrics

    return TensorBoardMetrics


def scalars(folder: Path) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars("loss")]


def write(logger, *steps: int) -> None:
    for step in steps:
        logger.log_metrics({"loss": float(step)}, step)
    logger.finalize("success")


def test_numbers_are_in_the_folder_of_the_run(tmp_path, make, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logger = make()
    logger.write_to(tmp_path / "run")
    write(logger, 0, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert scalars(tmp_path / "run" / "tensorboard") == [(0, 0.0), (1, 1.0)]


def test_a_folder_of_its_own_is_kept(tmp_path, make):
    logger = make(tmp_path / "own")
    logger.write_to(tmp_path / "run")
    write(logger, 0)
    assert scalars(tmp_path / "own" / "tensorboard") == [(0, 0.0)]


def test_a_resumed_run_hides_the_steps_it_logs_again(tmp_path, make):
    write(make(tmp_path), 0, 1, 2, 3)
    resumed = make()
    resumed.truncate_after(1)
    resumed.write_to(tmp_path)
    write(resumed, 2, 3)
    assert scalars(tmp_path / "tensorboard") == [(step, float(step)) for step in range(4)]
