"""Metrics as lines of text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from sgm_core.roles import Logger


class ExampleLogger(Logger):
    """Appends a line `step name=value ...` to a file for each logged step.

    Args:
        file: where to write; a relative path begins in the folder of the run.
    """

    def __init__(self, file: Path = Path("metrics.txt")) -> None:
        super().__init__()
        self.file = file

    def write_to(self, folder: Path) -> None:
        """Called by a run with its folder before anything is logged."""
        self.file = folder / self.file

    @property
    def name(self) -> str:
        return "text"

    @property
    def version(self) -> int:
        return 0

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        line = " ".join(f"{key}={value:.6g}" for key, value in metrics.items())
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(f"{step} {line}\n")

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The run's config.yaml has them."""
