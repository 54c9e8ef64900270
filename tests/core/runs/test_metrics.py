"""One valid JSON line per step, whatever is logged and whenever the process dies."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sgm_core.runs.metrics import JSONLMetrics


def lines(folder: Path) -> list[dict[str, Any]]:
    """The file's lines; raises for one that is no strict JSON."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    assert text.endswith("\n")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def log(folder: Path, *steps: int) -> None:
    metrics = JSONLMetrics(folder)
    for step in steps:
        metrics.log_metrics({"loss": step / 8}, step)


def test_a_call_is_a_line(tmp_path):
    metrics = JSONLMetrics(tmp_path / "new")
    metrics.log_metrics({"loss": 0.41}, step=12)
    assert lines(tmp_path / "new") == [{"step": 12, "loss": 0.41}], "written at once"
    metrics.log_metrics({"loss": 0.4, "lr_abs": 1e-3}, step=13)
    assert lines(tmp_path / "new") == [{"step": 12, "loss": 0.41}, {"step": 13, "loss": 0.4, "lr_abs": 1e-3}]


def test_calls_of_one_step_share_its_line(tmp_path):
    metrics = JSONLMetrics(tmp_path)
    metrics.log_metrics({"loss": 0.123456789, "epoch": 0}, step=4)
    metrics.log_metrics({"val_loss": 0.5, "epoch": 0}, step=4)
    metrics.log_metrics({"loss": 1}, step=5)
    metrics.log_metrics({"loss": 2}, step=5)
    assert lines(tmp_path) == [{"step": 4, "loss": 0.123456789, "epoch": 0, "val_loss": 0.5}, {"step": 5, "loss": 2}]


def test_a_line_that_becomes_shorter_leaves_no_rest(tmp_path):
    metrics = JSONLMetrics(tmp_path)
    metrics.log_metrics({"loss": 0.12345678901234}, step=0)
    metrics.log_metrics({"loss": 1}, step=0)
    metrics.log_metrics({"loss": 2}, step=1)
    assert lines(tmp_path) == [{"step": 0, "loss": 1}, {"step": 1, "loss": 2}]


def test_without_a_step_the_last_one_is_meant(tmp_path):
    metrics = JSONLMetrics(tmp_path)
    metrics.log_metrics({"a": 1})
    metrics.log_metrics({"b": 2}, step=7)
    metrics.log_metrics({"c": 3})
    assert lines(tmp_path) == [{"step": 0, "a": 1}, {"step": 7, "b": 2, "c": 3}]


def test_non_finite_numbers_are_strings_that_become_the_numbers_again(tmp_path):
    JSONLMetrics(tmp_path).log_metrics({"a": math.nan, "b": math.inf, "c": -math.inf, "d": torch.tensor(math.nan)}, 0)
    (line,) = lines(tmp_path)
    assert line == {"step": 0, "a": "NaN", "b": "Infinity", "c": "-Infinity", "d": "NaN"}
    assert math.isnan(float(line["a"]))
    assert (float(line["b"]), float(line["c"])) == (math.inf, -math.inf)


def test_every_bit_of_a_float_survives(tmp_path):
    values = [torch.rand((), dtype=torch.float64).item() for _ in range(20)]
    metrics = JSONLMetrics(tmp_path)
    for step, value in enumerate(values):
        metrics.log_metrics({"loss": value}, step)
    assert [line["loss"] for line in lines(tmp_path)] == values


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (torch.tensor(3), 3),
        (torch.tensor([1.5, 2.5]), [1.5, 2.5]),
        (np.float32(0.5), 0.5),
        (np.int64(4), 4),
        (True, True),
        ("text", "text"),
        (None, None),
        ({"a": {"b": torch.tensor(math.inf)}}, {"a": {"b": "Infinity"}}),
        (Path("a/b"), "a/b"),
    ],
)
def test_any_value_is_written(tmp_path, value, expected):
    JSONLMetrics(tmp_path).log_metrics({"x": value}, 0)
    assert lines(tmp_path) == [{"step": 0, "x": expected}]


def test_a_new_process_goes_on_after_the_last_line(tmp_path):
    log(tmp_path, 0, 1)
    log(tmp_path, 1, 2)
    assert [line["step"] for line in lines(tmp_path)] == [0, 1, 2]


def test_a_torn_line_is_dropped(tmp_path):
    log(tmp_path, 0, 1)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "loss": 0.123456789, "much": "longer than the next line", "lo')
    log(tmp_path, 3)
    assert [line["step"] for line in lines(tmp_path)] == [0, 1, 3]


def test_a_file_that_somebody_else_changed_is_gone_on_with(tmp_path):
    metrics = JSONLMetrics(tmp_path)
    metrics.log_metrics({"loss": 1}, 0)
    log(tmp_path, 1, 2)
    metrics.log_metrics({"loss": 3}, 3)
    assert [line["step"] for line in lines(tmp_path)] == [0, 1, 2, 3]
    (tmp_path / "metrics.jsonl").unlink()
    metrics.log_metrics({"loss": 4}, 4)
    assert lines(tmp_path) == [{"step": 4, "loss": 4}]


def test_truncating_drops_later_steps_and_broken_lines(tmp_path):
    metrics = JSONLMetrics(tmp_path)
    for step in range(5):
        metrics.log_metrics({"loss": step}, step)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('[1]\nnonsense\n{"loss": 2}\n{"step": 1, "torn": ')
    metrics.truncate_after(2)
    assert lines(tmp_path) == [{"step": step, "loss": step} for step in range(3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.csv", "metrics.jsonl"]
    metrics.log_metrics({"loss": 30}, 3)
    assert lines(tmp_path)[-2:] == [{"step": 2, "loss": 2}, {"step": 3, "loss": 30}]


def test_a_kept_step_that_is_logged_again_has_one_line(tmp_path):
    log(tmp_path, 0, 1, 2, 3)
    resumed = JSONLMetrics(tmp_path)
    resumed.truncate_after(2)
    for step in (2, 3):
        resumed.log_metrics({"loss": 9}, step)
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [(0, 0), (1, 0.125), (2, 9), (3, 9)]


def test_truncating_to_nothing_and_truncating_nothing(tmp_path):
    JSONLMetrics(tmp_path).truncate_after(5)
    assert not list(tmp_path.iterdir())
    log(tmp_path, 3)
    metrics = JSONLMetrics(tmp_path)
    metrics.truncate_after(2)
    metrics.log_metrics({"loss": 1}, 0)
    assert lines(tmp_path) == [{"step": 0, "loss": 1}]


def test_only_rank_zero_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    metrics = JSONLMetrics(tmp_path)
    metrics.log_metrics({"loss": 1}, 0)
    metrics.truncate_after(0)
    assert not list(tmp_path.iterdir())


def test_lines_are_whole_when_the_process_is_killed(tmp_path, sgm_forked):
    """Steps are merged all the time while the kill falls anywhere."""
    code = (
        "import itertools, pathlib, sys\n"
        "from sgm_core.runs.metrics import JSONLMetrics\n"
        "metrics = JSONLMetrics(pathlib.Path(sys.argv[1]))\n"
        "for i in itertools.count():\n"
        "    metrics.log_metrics({f'k{i % 3}': 1 / (i + 1)}, i // 3)\n"
    )
    file = tmp_path / "metrics.jsonl"
    writer = sgm_forked(tmp_path, code=code)
    writer.wait_for(lambda: file.exists() and file.stat().st_size > 20_000)
    writer.kill()
    found = lines(tmp_path)
    assert [line["step"] for line in found] == list(range(len(found)))
    assert all(len(line) == 4 for line in found[:-1])
    assert len(found) > 100


class Model(LightningModule):
    """Its loss in training is the step's number, in validation 100."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.log("loss", float(self.global_step))
        return self.weight

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val_loss", 100.0)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_trainer_writes_a_line_per_step_with_the_validation_in_it(tmp_path):
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        max_epochs=2,
        log_every_n_steps=1,
        logger=JSONLMetrics(tmp_path),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = DataLoader(torch.zeros(3, 1))
    trainer.fit(Model(), data, data)
    found = lines(tmp_path)
    assert [(line["step"], line["loss"], line["epoch"]) for line in found] == [
        (step, float(step), step // 3) for step in range(6)
    ]
    assert [line.get("val_loss") for line in found] == [None, None, 100.0] * 2
    assert trainer.log_dir == str(tmp_path)
