"""A run's metrics as JSON lines: one object per logged step, readable while the run goes on."""

from __future__ import annotations

import errno
import json
import os
from io import FileIO
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from sgm_core.files import replacing
from sgm_core.runs.lines import METRICS, parse, write_table
from sgm_core.training.folder_logger import FolderLogger


class JSONLMetrics(FolderLogger):
    """Writes `metrics.jsonl`: {"step": 12, "loss": 0.41, ...}, one line per step, in the order in which steps end.

    What Lightning logs of one step in several calls (the loss, then the validation's at the end of an epoch) is
    joined in the step's line: the last line is rewritten in place, so no other line is ever at risk. Each call is
    one write, which a kill leaves whole; a line torn by a power cut is dropped by whoever opens the file next.

    `step` is what Lightning says: the optimizer steps taken before the one that the numbers belong to, so the first
    is 0; `epoch` is Lightning's too. JSON has no NaN: non-finite numbers are the strings "NaN", "Infinity" and
    "-Infinity", of which Python's `float` makes the numbers again. When training ends, `metrics.csv` is made of it.

    Args:
        folder: where the file goes; created with the first line.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(Path(folder) / METRICS, str(Path(folder) / METRICS))
        self._line: dict[str, Any] = {}  # the last line of the file
        self._start = self._end = -1  # and where it is; unknown until the file was looked at

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write `metrics.csv`, the same as a table."""
        with self._tolerant:
            write_table(self.path.parent)

    def _log(self, metrics: dict[str, Any], step: int | None) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("r+b" if self.path.exists() else "x+b", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            if end != self._end:  # not looked at before, or changed by somebody else
                end = self._recover(file)
            last = self._line.get("step")
            step = step if step is not None else (last or 0)
            if step == last:
                self._line.update(metrics)
            else:
                self._line, self._start = {"step": step, **metrics}, end
            text = json.dumps(self._line, allow_nan=False).encode()
            # never shorter than the line it replaces: JSON allows spaces before the line's end
            line = text.ljust(end - self._start - 1) + b"\n"
            file.seek(self._start)
            self._end = -1  # until it is written: what a full disk tears is cut off with the next line
            if file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._end = self._start + len(line)

    def _recover(self, file: FileIO) -> int:
        """Find the last whole line and cut off what follows it; gives the end of the file."""
        file.seek(0)
        data = file.readall()
        end = data.rfind(b"\n") + 1
        file.truncate(end)
        self._start = data.rfind(b"\n", 0, max(end - 1, 0)) + 1
        self._line = parse(data[self._start : end]) or {}
        return end

    @rank_zero_only
    def truncate_after(self, step: int) -> None:
        """Drop the lines of later steps, and broken ones, for a run that resumes there and logs them anew; then the
        table of a run that was killed is that of what it resumes from.

        After n optimizer steps the last one is step n - 1; a line for n, if kept, is joined with what the resumed run
        logs for it. The file is replaced as a whole.
        """
        if not self.path.exists():
            return
        with self.path.open("rb") as old, replacing(self.path) as temporary, temporary.open("wb") as new:
            new.writelines(line for line in old if (parsed := parse(line)) and parsed["step"] <= step)
        self._end = -1
        self.finalize("resumed")
