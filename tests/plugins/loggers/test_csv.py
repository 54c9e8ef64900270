"""One table in the run's folder, whole after a kill, going on after a resume."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path

import pytest
from lightning.pytorch.utilities import rank_zero_only

from sgm_plugins.loggers.csv import CSVMetrics


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def log(folder: Path, *steps: int, **more: float) -> CSVMetrics:
    logger = CSVMetrics(folder)
    for step in steps:
        logger.log_metrics({"loss": float(step), **more}, step)
        logger.save()
    return logger


def test_a_row_per_step_and_a_column_per_metric(tmp_path):
    logger = CSVMetrics(tmp_path)
    logger.log_metrics({"loss": 0.5}, 0)
    logger.log_metrics({"loss": 0.25}, 1)
    logger.log_metrics({"val_loss": math.nan}, 1)  # joined
    logger.log_metrics({"loss": 0.125})  # the last step, again
    logger.log_metrics({"loss": 1.0}, 2)
    logger.finalize("success")
    assert (tmp_path / "metrics.csv").read_text() == "step,loss,val_loss\n0,0.5,\n1,0.125,NaN\n2,1.0,\n"
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_the_folder_is_that_of_the_constructor_else_of_the_run_else_the_current_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own, run, here = CSVMetrics(tmp_path / "own"), CSVMetrics(), CSVMetrics()
    own.write_to(tmp_path / "run")
    run.write_to(tmp_path / "run")
    for logger in (own, run, here):
        logger.log_metrics({"loss": 1.0}, 0)
        logger.finalize("success")
    assert [len(rows(folder)) for folder in (tmp_path / "own", tmp_path / "run", tmp_path)] == [1, 1, 1]
    assert own.save_dir == str(tmp_path / "own")


def test_a_resumed_run_goes_on_in_the_same_table(tmp_path):
    log(tmp_path, 0, 1, 2, 3, val_loss=9.0).finalize("success")
    resumed = CSVMetrics(tmp_path)
    resumed.truncate_after(1)
    resumed.log_metrics({"val_loss": 5.0}, 1)  # of the last row that was kept
    resumed.log_metrics({"loss": 20.0, "new": 1.0}, 2)
    resumed.finalize("success")
    assert [(r["step"], r["loss"], r["val_loss"], r["new"]) for r in rows(tmp_path)] == [
        ("0", "0.0", "9.0", ""),
        ("1", "1.0", "5.0", ""),
        ("2", "20.0", "", "1.0"),
    ]


def test_truncating_nothing_and_to_nothing(tmp_path):
    CSVMetrics(tmp_path).truncate_after(3)
    assert not list(tmp_path.iterdir())
    log(tmp_path, 4).finalize("success")
    logger = CSVMetrics(tmp_path)
    logger.truncate_after(3)
    logger.log_metrics({"loss": 7.0}, 0)
    logger.finalize("success")
    assert [(row["step"], row["loss"]) for row in rows(tmp_path)] == [("0", "7.0")]


def test_a_torn_row_is_dropped(tmp_path):
    log(tmp_path, 0, 1).finalize("success")
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("2,0.")
    log(tmp_path, 2, 3).finalize("success")
    assert [(row["step"], row["loss"]) for row in rows(tmp_path)] == [(str(i), f"{i}.0") for i in range(4)]


def test_ending_twice_writes_once(tmp_path):
    logger = log(tmp_path, 0, 1)
    logger.finalize("success")
    logger.finalize("failed")
    logger.log_metrics({"loss": 2.0}, 2)
    logger.finalize("success")
    assert [row["step"] for row in rows(tmp_path)] == ["0", "1", "2"]


def test_only_rank_zero_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    log(tmp_path, 0, 1).finalize("success")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_rows_are_whole_when_the_process_is_killed(tmp_path, sgm_forked):
    code = (
        "import itertools, pathlib, sys\n"
        "from sgm_plugins.loggers.csv import CSVMetrics\n"
        "logger = CSVMetrics(pathlib.Path(sys.argv[1]))\n"
        "for i in itertools.count():\n"
        "    logger.log_metrics({'loss': 1 / (i + 1)} | ({f'k{i}': 1.0} if i % 97 == 0 else {}), i)\n"
    )
    file = tmp_path / "metrics.csv"
    writer = sgm_forked(tmp_path, code=code)
    writer.wait_for(lambda: file.exists() and file.stat().st_size > 20_000)
    writer.kill()
    found = rows(tmp_path)
    assert len(found) > 100
    assert [(int(row["step"]), float(row["loss"])) for row in found] == [(i, 1 / (i + 1)) for i in range(len(found))]
    log(tmp_path, len(found)).finalize("success")
    assert len(rows(tmp_path)) == len(found) + 1


@pytest.mark.parametrize(
    "content",
    [
        b'\r\x00,\r\n"' + bytes(range(128, 256)) + b"\rx\n",
        b"step,loss\n1," + b"9" * 200_000 + b"\n",
        b"step,loss\n" + "²,1\n".encode() + b"9" * 5000 + b",1\n-1,1\n",
        b"\xff\xfe",
    ],
)
def test_a_broken_table_is_a_warning_at_most_and_training_continues(tmp_path, content, recwarn):
    (tmp_path / "metrics.csv").write_bytes(content)
    log(tmp_path).truncate_after(5)
    (tmp_path / "metrics.csv").write_bytes(content)
    log(tmp_path, 1, 2).finalize("success")
    assert [row["step"] for row in rows(tmp_path)] == ["1", "2"]
    assert all("written anew" in str(warning.message) for warning in recwarn)
