"""How long training waits for its data, on a clock that only this test moves."""

from __future__ import annotations

import json

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, Dataset

from sgm_core.config.api import config_from
from sgm_core.runs.run import start_run
from sgm_plugins.tools.report import waiting as data_wait
from sgm_plugins.tools.report.waiting import DataWait


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(data_wait, "time", clock)
    return clock


class Slow(Dataset):
    """A sample takes a second to load."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> torch.Tensor:
        self.clock.now += 1.0
        return torch.ones(1)


class Line(L.LightningModule):
    """A step takes 3 seconds, a batch of validation 100."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.a = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch, batch_idx):
        self.clock.now += 3.0
        return (self.a * batch).mean()

    def validation_step(self, batch, batch_idx):
        self.clock.now += 100.0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Saves(L.Callback):
    """Takes 50 seconds at the end of each step, and as long for each checkpoint."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_batch_end(self, *args):
        self.clock.now += 50.0

    def on_save_checkpoint(self, *args):
        self.clock.now += 50.0


def test_only_the_time_until_the_next_batch_is_there_counts(clock, tmp_path):
    """Neither a step, nor what other callbacks do, nor validation, nor the writing of checkpoints."""
    wait = DataWait()
    trainer = L.Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        callbacks=[Saves(clock), ModelCheckpoint(tmp_path, every_n_train_steps=1), wait],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    loader = DataLoader(Slow(clock), batch_size=2)
    trainer.fit(Line(clock), loader, DataLoader(torch.ones(1, 1)))
    # Lightning loads a batch ahead: those of a step are loaded before it, the first before the epoch begins
    assert 2 * 6 <= wait.seconds <= 2 * 8
    assert wait.share == pytest.approx(wait.seconds / clock.now, abs=0.01)


def test_a_run_that_waited_long_says_so_and_the_report_has_the_share(clock, register, tmp_path, capsys):
    register("engines", "line")(lambda: Line(clock))
    data = type("Data", (L.LightningDataModule,), {"train_dataloader": lambda self: DataLoader(Slow(clock))})
    register("datamodules", "slow")(data)
    trainer = {"max_epochs": 2, "callbacks": [], "accelerator": "cpu", "enable_progress_bar": False}
    config = config_from({"model": "line", "data": "slow", "trainer": trainer})
    assert start_run(config, tmp_path, "a").train() == 0
    said = capsys.readouterr().err
    assert "waiting for data took 2" in said  # a second, after each step of 3
    assert "data.num_workers" in said
    record = json.loads((tmp_path / "a" / "run.json").read_text())
    assert 10 <= record["waiting"] <= 16


def test_a_run_that_is_resumed_amid_an_epoch_begins_to_wait_when_it_starts(clock, tmp_path):
    """Lightning does not begin such an epoch again."""

    saved = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")

    def fit(steps: int, checkpoint=None) -> DataWait:
        wait = DataWait()
        quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
        trainer = L.Trainer(accelerator="cpu", max_steps=steps, callbacks=[saved, wait], **quiet)
        trainer.fit(Line(clock), DataLoader(Slow(clock), batch_size=2), ckpt_path=checkpoint)
        return wait

    clock.now = 1000.0
    fit(2)
    assert fit(4, tmp_path / "step=1.ckpt").seconds <= 8


@pytest.mark.parametrize(("seconds", "passed", "said"), [(5, 10, False), (19, 100, False), (21, 100, True)])
def test_a_short_wait_is_not_worth_a_line(clock, seconds, passed, said):
    wait = DataWait()
    wait.on_train_start(None, None)
    wait.seconds, clock.now = float(seconds), float(passed)
    assert bool(wait.advice()) is said
