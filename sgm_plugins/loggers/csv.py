"""Metrics as a CSV table, for a spreadsheet."""

from __future__ import annotations

import csv
import errno
import io
import os
import re
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from sgm_core.errors import SgmError
from sgm_core.files import read_bytes, replacing
from sgm_core.training.folder_logger import FolderLogger
from sgm_plugins.reading import read_table

FILE = "metrics.csv"

LARGEST = 1 << 30
"""Bytes of a table that is read to go on with it."""


class CSVMetrics(FolderLogger):
    """Writes `metrics.csv` in the folder of the run while it trains: a row per logged step, a column per metric, `step`
    the first. Without this logger a run writes the table when it ends.

    What Lightning logs of one step in several calls is one row, which is written when the next step is logged or the
    run ends. A metric that is new becomes the last column, for which the table is replaced as a whole; else rows are
    appended, each in one write. A row that a power cut tore is dropped when the file is opened next.

    Args:
        save_dir: the folder of the table. None leaves it to whoever starts the run, who calls `write_to`; a plain
            `Trainer` does not, then it is the current folder.
    """

    def __init__(self, save_dir: Path | None = None) -> None:
        super().__init__((Path() if save_dir is None else Path(save_dir)) / FILE, f"the table {FILE}")
        self._given = save_dir is not None
        self._row: dict[str, Any] = {}
        self._columns: list[str] | None = None  # of the file; unknown until it was looked at
        self._in_file = False  # whether the row came from there

    def write_to(self, folder: Path) -> None:
        """Use this folder, unless the constructor was given one. To be called before anything is logged."""
        if not self._given:
            self.path = folder / FILE

    def _log(self, metrics: dict[str, Any], step: int | None) -> None:
        self._open()
        last = self._row.get("step")
        step = step if step is not None else (last or 0)
        if step != last:
            done, held = self._row, self._in_file
            self._row, self._in_file = {"step": step} | metrics, False
            self._write(done, held)
            return
        changed = {key: value for key, value in metrics.items() if self._row.get(key) != value}
        if changed and self._in_file:  # a resumed run goes on with the last row: take it out, to write it again
            self._replace(rows(self.path)[:-1])
            self._in_file = False
        self._row |= changed

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the last row, unless it is there: a run that ends writes the whole table of its own accord."""
        with self._tolerant:
            row, in_file = self._row, self._in_file
            self._columns = None
            self._open()
            if row.get("step") != self._row.get("step"):
                self._write(row, in_file)
            self._row, self._in_file = row or self._row, True

    @rank_zero_only
    def truncate_after(self, step: int) -> None:
        """Drop the rows of later steps, for a run that resumes there and logs them anew."""
        if self.path.exists():
            self._columns = None
            self._open()
            self._replace([row for row in rows(self.path) if int(row["step"]) <= step])
            self._columns = None

    def _open(self) -> None:
        """Find the columns and the last row of the file, if there is one."""
        if self._columns is not None:
            return
        found = rows(self.path)
        self._columns = list(found[0]) if found else ["step"]
        self._row = {k: v for k, v in found[-1].items() if v != ""} | {"step": int(found[-1]["step"])} if found else {}
        self._in_file = bool(found)
        if found and not read_bytes(self.path, LARGEST).endswith(b"\n"):  # torn
            self._replace(found)

    def _write(self, row: dict[str, Any], in_file: bool) -> None:
        if not row or in_file or self._columns is None:
            return
        new = [key for key in row if key not in self._columns]
        if new or not self.path.exists():
            old, before = rows(self.path), self._columns
            try:
                self._columns = [*before, *new]
                self._replace([*old, row])
            except OSError:
                self._columns = before
                raise
            return
        line = as_csv(self._columns, [row])
        with self.path.open("ab", buffering=0) as file:
            end = file.tell()
            if file.write(line) < len(line):
                file.truncate(end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _replace(self, table: list[dict[str, Any]]) -> None:
        assert self._columns is not None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        head = dict(zip(self._columns, self._columns, strict=True))
        with replacing(self.path) as temporary:
            temporary.write_bytes(as_csv(self._columns, [head, *table]))


def as_csv(columns: list[str], table: list[dict[str, Any]]) -> bytes:
    """Rows as text; what a row has not is an empty cell."""
    text = io.StringIO()
    csv.DictWriter(text, columns, restval="", lineterminator="\n").writerows(table)
    return text.getvalue().encode()


def rows(path: Path) -> list[dict[str, Any]]:
    """The whole rows of a table; none where there is no file, or with a warning none of ours."""
    if not path.exists():
        return []
    try:
        found = read_table(path, LARGEST)
    except SgmError as error:
        warnings.warn(f"{error}. It is written anew", stacklevel=2)
        return []
    return [row for row in found if re.fullmatch("[0-9]{1,15}", row.get("step", ""))]
