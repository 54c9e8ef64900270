"""Metrics and images for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

# here, so that a missing extra is found when the component is looked up
import tensorboard  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: F401
from lightning.pytorch.loggers import TensorBoardLogger

from sgm_core.files import Tolerant


class TensorBoardMetrics(TensorBoardLogger):
    """Lightning's TensorBoard logger, writing `tensorboard/` in the folder of the run: `tensorboard --logdir runs`.

    A disk that is full is a warning, and what is logged after it is lost.

    Args:
        save_dir: the folder in which `tensorboard/` goes. None leaves it to whoever starts the run, who calls
            `write_to`; a plain `Trainer` does not, then it is the current folder.
    """

    def __init__(self, save_dir: Path | None = None) -> None:
        self._given = save_dir is not None
        self._tolerant = Tolerant("what TensorBoard shows")
        self._open(Path() if save_dir is None else save_dir)

    def _open(self, folder: Path, purge_step: int | None = None) -> None:
        # a resumed run adds a file to the same folder; TensorBoard reads them as one
        self._purge_step = purge_step
        super().__init__(folder, name="tensorboard", version="", default_hp_metric=False, purge_step=purge_step)

    def write_to(self, folder: Path) -> None:
        """Use this folder, unless the constructor was given one. To be called before anything is logged."""
        if not self._given:
            self._open(folder, self._purge_step)

    def truncate_after(self, step: int) -> None:
        """Hide what the files hold of later steps, which a resumed run logs anew. To be called before it does."""
        self._open(Path(self.save_dir), step + 1)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """As Lightning's, but for a full disk."""
        with self._tolerant:
            try:
                super().log_metrics(metrics, step)
            except ValueError as error:  # Lightning's, of whatever the writer raises
                raise error.__cause__ or error from None

    def save(self) -> None:
        """As Lightning's, but for a full disk."""
        with self._tolerant:
            super().save()

    def finalize(self, status: str) -> None:
        """As Lightning's, but for a full disk."""
        with self._tolerant:
            super().finalize(status)
