"""Keeps a run's report up to date while it trains, at a cost that is measured and bounded."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from sgm_core.config.api import Config
from sgm_plugins.datamodules.report import data_lines
from sgm_plugins.sharing import shareable
from sgm_plugins.tools.report.config_lines import config_lines, with_origins
from sgm_plugins.tools.report.page import Report
from sgm_plugins.tools.report.record import Record, command, environment, host, read_record, shared
from sgm_plugins.tools.report.waiting import DataWait

SHARE = 0.01
"""Of the time of training that reports may take: a slow disk or a large page makes them rarer."""

PICTURE_SECONDS = 0.5
"""How long one report may read pictures while the run goes on."""


class Reporter(Callback):
    """Writes `run.json` and `report.html`, on rank 0, from what the loggers have written: no step waits for the device.

    A report that cannot be written is a warning, once; training goes on.

    Args:
        config: of the run.
        folder: of the run.
        wait: measures how long training waits for data.
        interval: seconds from one report to the next, at least.
        paths: whether command lines, folders and the host stand in it.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        wait: DataWait | None = None,
        interval: float = 10.0,
        paths: bool = False,
    ) -> None:
        self.paths = paths
        self.config = config
        self.folder = folder
        self.wait = wait
        self.interval = interval
        self.record = Record()
        self.report = Report(folder)
        self.spent = 0.0  # seconds for reports, all together
        self._next = self._since = 0.0
        self._before = self._waited_before = 0.0  # seconds of earlier sessions
        self._warned = False

    # --- what a run goes through -------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        old = read_record(self.folder)
        total = trainer.estimated_stepping_batches
        self.record = Record(
            state="running",
            step=trainer.global_step,
            total_steps=int(total) if 0 < total < float("inf") else None,
            seconds=old.seconds,
            samples=round(old.samples * min(trainer.global_step / old.step, 1.0)) if old.step else 0,
            interval=self.interval,
            sessions=[*old.sessions, {"started": time.time(), "step": trainer.global_step, "command": command()}],
            environment={
                **environment(device_of(trainer)),
                **data_facts(pl_module),
                "precision": str(trainer.precision),
                "processes": f"{trainer.world_size}, {type(trainer.strategy).__name__}",
            },
            config=with_origins(config_lines(self.config), old.config, self.folder / "config.yaml"),
            pace=[mark for mark in old.pace if mark[0] < trainer.global_step],
            host=host(),
            pid=os.getpid(),
        )
        if not self.paths:
            self.record = shared(self.record)
        self._before, self._waited_before, self._since = old.seconds, old.waiting, time.monotonic()
        self._write(picture_seconds=PICTURE_SECONDS)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_global_zero:
            self.record.samples += samples_of(batch) * trainer.world_size
            self._tick(trainer)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        if trainer.is_global_zero and self._since:
            self._tick(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end(trainer, "finished")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """An Exception is a failure; Ctrl-C, signals and what ends a process are none."""
        if isinstance(exception, Exception):
            said = str(exception).strip().splitlines()
            self._end(trainer, "failed", f"{type(exception).__name__}: {said[0] if said else ''}".rstrip(": "))
        else:
            self._end(trainer, "interrupted")

    # --- writing -----------------------------------------------------------------------------------------------------

    def _tick(self, trainer: Trainer) -> None:
        """Write, if it is time."""
        if time.monotonic() >= self._next:
            self.record.step = trainer.global_step
            self._write(picture_seconds=PICTURE_SECONDS)

    def _end(self, trainer: Trainer, state: str, reason: str = "") -> None:
        if trainer.is_global_zero and self._since:  # else training never began
            self.record.step = trainer.global_step
            self.record.state, self.record.reason = state, reason if self.paths else shareable(reason)
            self._write(picture_seconds=None)

    def _write(self, picture_seconds: float | None) -> None:
        began = time.monotonic()
        self.record.seconds = self._before + began - self._since
        if self.wait is not None:
            self.record.waiting = self._waited_before + self.wait.seconds
        self.record.mark()
        try:
            self.record.write(self.folder)
            self.report.write(self.record, picture_seconds=picture_seconds)
        except Exception as error:  # whatever it is: a report is no reason to lose a run
            if not self._warned:
                self._warned = True
                warnings.warn(f"the run's report was not written: {type(error).__name__}: {error}", stacklevel=2)
        now = time.monotonic()
        self.spent += now - began
        self._next = now + max(self.interval, (now - began) / SHARE)
        self.record.interval = self._next - now


def device_of(trainer: Trainer) -> str:
    """What a run trains on: `NVIDIA H100`, or `cpu`."""
    import torch

    device = trainer.strategy.root_device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def data_facts(engine: LightningModule) -> dict[str, str]:
    """What the engine was told of the data."""
    from sgm_core.checkpoints.provenance import Provenance

    provenance = Provenance.of_engine(engine)
    lines = data_lines((provenance and provenance.data) or {})
    return {"data": "; ".join(lines)} if lines else {}


def samples_of(batch: Any) -> int:
    """How many samples a batch has: the rows of its first tensor, the length of its first list."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 1
    if isinstance(batch, Mapping):
        entries = [entry for entry in batch.values() if isinstance(entry, (list, tuple)) or _has_rows(entry)]
        return samples_of(entries[0]) if entries and _has_rows(entries[0]) else len(entries[0]) if entries else 0
    if isinstance(batch, (list, tuple)) and batch:
        return samples_of(batch[0]) if isinstance(batch[0], (Tensor, Mapping)) else len(batch)
    return 0


def _has_rows(entry: Any) -> bool:
    return isinstance(entry, Tensor) and entry.ndim > 0
