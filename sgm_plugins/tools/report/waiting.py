"""How long training waits for its data."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from sgm_core.errors import tell

SHARE = 0.2
"""Of the time of training, from which a run says so when it ends."""

LONG = 10.0
"""Seconds below which it does not."""


class DataWait(Checkpoint):
    """Measures, from the end of a step and all that goes with it to the next batch.

    A checkpoint only for Lightning, which calls these after all other callbacks: what those do is no waiting for data.

    Attributes:
        seconds: waited so far, on this process.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = self._since = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = self._since = time.monotonic()  # an epoch that is resumed in its midst does not start

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = time.monotonic()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.seconds += time.monotonic() - self._since

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._since = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = time.monotonic()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so where waiting took a large share of a run."""
        if trainer.is_global_zero and (advice := self.advice()):
            tell(advice)

    @property
    def share(self) -> float:
        """Of the time since training began."""
        passed = time.monotonic() - self._began
        return self.seconds / passed if passed > 0 else 0.0

    def advice(self) -> str:
        """One line, if it was long; empty if not."""
        share = self.share
        if share < SHARE or self.seconds < LONG:
            return ""
        return (
            f"waiting for data took {share:.0%} of the time: more processes that load it (data.num_workers), smaller "
            "files, or what is computed once and kept (sgm cache) would make this run faster"
        )
