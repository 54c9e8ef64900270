"""A progress bar over the steps of a run: epochs of small data are too short to watch."""

from __future__ import annotations

import sys
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm


class StepProgressBar(ProgressBar):
    """Optimizer steps done of all, steps per second, time left, and the latest metrics of the progress bar.

    Args:
        refresh: seconds between two updates. Metrics are read from the device at these times only, so that no
            step waits for it.
    """

    def __init__(self, refresh: float = 0.5) -> None:
        super().__init__()
        self.refresh = refresh
        self.enabled = True
        self.bar: tqdm[Any] | None = None

    def enable(self) -> None:
        self.enabled = True

    def disable(self) -> None:
        """Lightning calls this on all ranks but the first."""
        self.enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        total = trainer.estimated_stepping_batches
        self.bar = tqdm(
            total=int(total) if total not in (float("inf"), -1) else None,
            initial=trainer.global_step,
            desc="training",
            unit="step",
            mininterval=self.refresh,
            disable=not self.enabled,
            file=sys.stderr,
            dynamic_ncols=True,
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.bar is not None and self.bar.update(trainer.global_step - self.bar.n):
            metrics = {key: value for key, value in self.get_metrics(trainer, pl_module).items() if key != "v_num"}
            self.bar.set_postfix(metrics, refresh=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.close()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def print(self, *args: Any, sep: str = " ", **kwargs: Any) -> None:
        """Lines above the bar."""
        tqdm.write(sep.join(map(str, args)), file=sys.stderr)
