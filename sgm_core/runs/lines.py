"""The file of a run's metrics, without Lightning: its lines, and the table that is made of them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sgm_core.files import open_regular, replacing

METRICS = "metrics.jsonl"
"""The file's name in the folder of a run."""

TABLE = "metrics.csv"

MOST, LONGEST = 1 << 30, 1 << 20  # bytes of the file, and of a line, that are read


def parse(line: bytes) -> dict[str, Any] | None:
    """A line of the file, or None where it is torn or none of ours."""
    try:
        parsed = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = parsed.get("step") if isinstance(parsed, dict) and line.endswith(b"\n") else None
    return parsed if type(step) is int and 0 <= step < 2**53 else None


def write_table(folder: Path) -> None:
    """Write `metrics.csv`, for a spreadsheet: a row per line of `metrics.jsonl`, a column per metric, `step` the first.

    Where there is no `metrics.jsonl` nothing happens.
    """
    if not (folder / METRICS).exists():
        return
    columns = dict.fromkeys(["step", *(key for row in _rows(folder / METRICS) for key in row)])
    with replacing(folder / TABLE) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(columns), restval="", extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows(_rows(folder / METRICS))


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with open_regular(path, MOST) as file:
        yield from filter(None, map(parse, iter(lambda: file.readline(LONGEST), b"")))
