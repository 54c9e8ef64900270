"""The callback: what it writes when, what it costs, and that it never ends a run."""

import time

import pytest
import torch
from support.tiny_model import fit, make_engine

import sgm_core as sgm
from sgm_plugins.tools.report import reporter
from sgm_plugins.tools.report.config_lines import config_lines, with_origins
from sgm_plugins.tools.report.record import read_record
from sgm_plugins.tools.report.reporter import Reporter, samples_of


@pytest.fixture
def config():
    return sgm.load_config("digits", overrides=["trainer.max_steps=4"])


def test_a_run_ends_finished_with_its_facts(tmp_path, config):
    fit(make_engine(), 4, [Reporter(config, tmp_path)], default_root_dir=tmp_path)
    record = read_record(tmp_path)
    assert (record.state, record.step, record.total_steps, record.samples) == ("finished", 4, 4, 16)
    assert record.environment["torch"] == torch.__version__
    assert record.environment["device"] == "cpu"
    assert ["  max_steps: 4", "override 'trainer.max_steps=4'"] in record.config
    assert any(text == "  seed: 0" or text.startswith("seed: 23") for text, _ in record.config)
    assert (tmp_path / "report.html").read_text().count("</html>") == 1


class Raises(reporter.Callback):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == 2:
            raise self.error


class Signal(BaseException):
    """How a run ends that is told to."""


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (ValueError("no such\nthing"), "failed", "ValueError: no such"),
        (RuntimeError(), "failed", "RuntimeError"),
        (Signal("stop"), "interrupted", ""),
    ],
)
def test_how_a_run_ends_is_told_in_one_line(tmp_path, config, error, state, reason):
    with pytest.raises(type(error)):
        fit(make_engine(), 4, [Reporter(config, tmp_path), Raises(error)], default_root_dir=tmp_path)
    record = read_record(tmp_path)
    assert (record.state, record.reason, record.step) == (state, reason, 2)


def test_it_is_written_while_the_run_goes_on_but_not_more_often_than_asked(tmp_path, config, monkeypatch):
    written = []
    real = Reporter._write
    monkeypatch.setattr(Reporter, "_write", lambda self, **k: (written.append(self.record.step), real(self, **k)))
    monkeypatch.setattr(reporter, "SHARE", 1.0)
    fit(make_engine(), 8, [Reporter(config, tmp_path / "a", interval=0.0)])
    fit(make_engine(), 8, [Reporter(config, tmp_path / "b", interval=1000.0)])
    assert len([step for step in written if 0 < step < 8]) >= 3
    assert written[-2:] == [0, 8]


def test_a_costly_report_becomes_rare(tmp_path, config, monkeypatch):
    """A hundredth of the time, whatever the disk or the page is like."""
    tmp_path.joinpath("run").mkdir()
    made = Reporter(config, tmp_path / "run", interval=0.01)
    monkeypatch.setattr(made.report, "write", lambda *a, **k: time.sleep(0.05))
    fit(make_engine(), 4, [made])
    assert made.record.interval >= 0.05 / reporter.SHARE


def test_a_report_that_can_not_be_written_is_one_warning(tmp_path, config, monkeypatch):
    said = []
    monkeypatch.setattr(reporter.warnings, "warn", lambda text, **k: said.append(text))
    monkeypatch.setattr(reporter, "SHARE", 1.0)
    (tmp_path / "file").touch()
    made = Reporter(config, tmp_path / "file", interval=0.0)
    assert fit(make_engine(), 4, [made]).global_step == 4
    assert len([text for text in said if "report was not written: NotADirectoryError" in text]) == 1


def test_weights_are_the_same_with_and_without_a_report(tmp_path, config):
    states = []
    for callbacks in ([], [Reporter(config, tmp_path, interval=0.0)]):
        engine = make_engine()
        torch.manual_seed(3)
        fit(engine, 4, callbacks)
        states.append(engine.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize(
    ("batch", "samples"),
    [
        (torch.zeros(5, 2), 5),
        ({"n": torch.tensor(1.0), "txt": ["a"] * 3, "x": torch.zeros(3)}, 3),
        ([torch.zeros(4), torch.zeros(4)], 4),
        (["a", "b"], 2),
        ({}, 0),
        (None, 0),
    ],
)
def test_samples_of_a_batch(batch, samples):
    assert samples_of(batch) == samples


def test_a_resumed_run_remembers_where_its_config_was_written(tmp_path, config):
    saved = tmp_path / "config.yaml"
    saved.write_text(config.to_yaml())
    first = config_lines(config)
    again = config_lines(sgm.load_config(saved, overrides=["trainer.max_steps=9"]))
    origins = dict(map(tuple, with_origins(again, first, saved)))
    assert "digits.yaml:" in origins["    model_channels: 32"]
    assert origins["  max_steps: 9"] == "override 'trainer.max_steps=9'"
    assert not any(str(saved) in origin for origin in origins.values())
    assert str(saved) in dict(map(tuple, with_origins(again, [], saved)))["    model_channels: 32"]
