"""Metrics as a CSV table, for a spreadsheet."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch.loggers import CSVLogger


class CSVMetrics(CSVLogger):
    """Lightning's CSV logger, writing `csv/version_0/metrics.csv` in the folder of the run.

    A run that resumes writes `version_1`: Lightning's logger deletes the table it finds in its own folder.

    Args:
        save_dir: the folder in which `csv/` goes. None leaves it to whoever starts the run, who calls `write_to`; a
            plain `Trainer` does not, then it is the current folder.
    """

    def __init__(self, save_dir: Path | None = None) -> None:
        self._given = save_dir is not None
        super().__init__(Path() if save_dir is None else save_dir, name="csv")

    def write_to(self, folder: Path) -> None:
        """Use this folder, unless the constructor was given one. To be called before anything is logged."""
        if not self._given:
            super().__init__(folder, name="csv")  # the only way to tell Lightning's logger
