"""The table that is made of a run's metrics."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

from sgm_core.runs.lines import write_table
from sgm_core.runs.metrics import JSONLMetrics
from sgm_plugins.loggers.csv import CSVMetrics


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_per_step_and_a_column_per_metric_when_training_ends(tmp_path):
    logger = JSONLMetrics(tmp_path)
    logger.log_metrics({"loss": 0.5}, 0)
    logger.log_metrics({"loss": 0.25}, 1)
    logger.log_metrics({"val_loss": math.nan}, 1)
    logger.log_metrics({"loss": 1.0}, 2)
    assert not (tmp_path / "metrics.csv").exists()
    logger.finalize("failed")
    assert (tmp_path / "metrics.csv").read_text() == "step,loss,val_loss\n0,0.5,\n1,0.25,NaN\n2,1.0,\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.csv", "metrics.jsonl"]


def test_without_metrics_there_is_no_table(tmp_path):
    write_table(tmp_path)
    JSONLMetrics(tmp_path).finalize("success")
    assert list(tmp_path.iterdir()) == []


def test_lines_that_are_torn_or_of_somebody_else_are_no_rows(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 0, "a,b": 1.0}\nnonsense\n{"no": 1}\n{"step": 1, "a,b": "x"}\n{"st'
    )
    write_table(tmp_path)
    assert table(tmp_path) == [{"step": "0", "a,b": "1.0"}, {"step": "1", "a,b": "x"}]


def test_a_run_that_resumes_has_the_table_of_the_steps_before(tmp_path):
    killed = JSONLMetrics(tmp_path)
    for step in range(4):
        killed.log_metrics({"loss": float(step)}, step)
    (tmp_path / "metrics.csv").write_text("step,loss\n0,of an earlier session\n")
    JSONLMetrics(tmp_path).truncate_after(1)
    assert table(tmp_path) == [{"step": "0", "loss": "0.0"}, {"step": "1", "loss": "1.0"}]


@pytest.mark.parametrize("jsonl_first", [True, False])
def test_a_logger_that_writes_the_table_live_leaves_the_same_one(tmp_path, jsonl_first):
    """`logger: csv` in a run: both end, in either order, and no row is there twice."""
    loggers = [JSONLMetrics(tmp_path), CSVMetrics(tmp_path)]
    loggers = loggers if jsonl_first else loggers[::-1]
    for steps in ((0, 1, 2), (3, 4)):
        for step in steps:
            for logger in loggers:
                logger.log_metrics({"loss": float(step)} | ({"new": 1.0} if step == 2 else {}), step)
        live = table(tmp_path)
        assert live[-1]["step"] == str(steps[-2]), "the last row may still be joined"
        for logger in loggers:
            logger.finalize("success")
    assert [row["step"] for row in table(tmp_path)] == ["0", "1", "2", "3", "4"]
    assert [row["new"] for row in table(tmp_path)] == ["", "", "1.0", "", ""]


def test_steps_beyond_all_bounds_and_endless_nesting_are_no_rows(tmp_path):
    steps = ["1", "-1", "true", "1.0", str(2**53), "1" + "0" * 400, '"1"', "[" * 100_000]
    (tmp_path / "metrics.jsonl").write_text("".join(f'{{"step": {step}, "loss": 0.5}}\n' for step in steps))
    write_table(tmp_path)
    assert (tmp_path / "metrics.csv").read_text() == "step,loss\n1,0.5\n"
