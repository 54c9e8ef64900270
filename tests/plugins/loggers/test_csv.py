"""The table lies in the run's folder and survives a resume."""

from __future__ import annotations

import csv
from pathlib import Path

from sgm_plugins.loggers.csv import CSVMetrics


def write(logger: CSVMetrics, loss: float) -> None:
    logger.log_metrics({"loss": loss}, step=0)
    logger.save()


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_is_in_the_folder_it_was_given(tmp_path):
    logger = CSVMetrics(tmp_path)
    logger.write_to(tmp_path / "elsewhere")
    write(logger, 0.5)
    assert rows(tmp_path / "csv" / "version_0" / "metrics.csv") == [{"loss": "0.5", "step": "0"}]
    assert not (tmp_path / "elsewhere").exists()


def test_without_one_the_run_decides(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logger = CSVMetrics()
    logger.write_to(tmp_path / "run")
    write(logger, 0.5)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert rows(tmp_path / "run" / "csv" / "version_0" / "metrics.csv") == [{"loss": "0.5", "step": "0"}]


def test_without_a_run_it_is_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(CSVMetrics(), 0.5)
    assert (tmp_path / "csv" / "version_0" / "metrics.csv").is_file()


def test_a_second_run_in_the_folder_keeps_the_table_of_the_first(tmp_path):
    for loss in (0.5, 0.25):
        write(CSVMetrics(tmp_path), loss)
    losses = [rows(tmp_path / "csv" / f"version_{i}" / "metrics.csv")[0]["loss"] for i in (0, 1)]
    assert losses == ["0.5", "0.25"]
