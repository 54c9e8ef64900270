"""The curves of a run, from its `metrics.jsonl`, in bounded memory, and read on while the file grows."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from sgm_core.files import inside, open_regular
from sgm_core.runs.lines import LONGEST, MOST, parse

POINTS = 1000
"""Points of a curve above which it is thinned: a screen is hardly wider."""

CURVES = 80
"""More are counted and left out: the page has to stay readable, and below its limit of bytes."""

NAME = 200
"""Letters of a metric's name."""

BESIDE = frozenset({"step", "epoch", "global_step"})
"""What a line has beside metrics: where on the axis it is."""

Point = tuple[int, float]
"""(step, value); the value is nan or infinite where the metric was."""


class Curves:
    """Every numeric metric of a file as a curve. `read` takes up what was written since the last call.

    The last line stays out of the curves until another follows it, for it may still be joined (see `JSONLMetrics`);
    `curves` has it nevertheless.

    Args:
        path: the file; none there yet is an empty one, and so is a link out of its folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._start()

    def _start(self) -> None:
        self._kept: dict[str, list[Point]] = {}
        self._buckets: dict[str, int] = {}
        self._last: dict[str, Any] = {}
        self._position = 0  # of the last line
        self.left_out: set[str] = set()
        self._epoch: Any = None

    def read(self) -> None:
        """Take up the new lines. A file that became shorter is read anew."""
        try:
            path = inside(self.path.parent, self.path.name)
            if not path.is_file():
                raise FileNotFoundError
            with open_regular(path, MOST) as file:
                if file.seek(0, 2) < self._position:
                    self._start()
                file.seek(self._position)
                self._take(file)
        except (OSError, ValueError):
            self._start()

    def _take(self, file: BinaryIO) -> None:
        line = file.readline(LONGEST)
        while line:
            following = file.readline(LONGEST)
            row = parse(line)
            if not following:
                self._last = row or {}
                break
            self._position += len(line)
            if row is not None:
                self._add(row)
            line = following

    @property
    def last_step(self) -> int | None:
        """The number of the newest line."""
        steps = [points[-1][0] for points in self.curves.values()]
        return max(steps, default=None)

    @property
    def epoch(self) -> int | None:
        """Of the newest line that says one."""
        epoch = self._last.get("epoch", self._epoch)
        return epoch if type(epoch) is int else None

    @property
    def curves(self) -> dict[str, list[Point]]:
        """The curves by metric, each with at most some `POINTS` points in the order of the file."""
        found = {key: list(points) for key, points in self._kept.items()}
        for key, value in numbers(self._last).items():
            if key in found or len(found) < CURVES:
                found.setdefault(key, []).append((self._last["step"], value))
            else:
                self.left_out.add(key)
        return {key: thinned(points) for key, points in found.items()}

    def _add(self, row: dict[str, Any]) -> None:
        self._epoch = row.get("epoch", self._epoch)
        for key, value in numbers(row).items():
            points = self._kept.get(key)
            if points is None:
                if len(self._kept) >= CURVES:
                    self.left_out.add(key)
                    continue
                points = self._kept[key] = []
            points.append((row["step"], value))
            if len(points) >= 4 * POINTS:
                points[:] = thinned(points)


def numbers(row: dict[str, Any]) -> dict[str, float]:
    """The metrics of a line that are numbers; "NaN" and "Infinity" are some."""
    found = {}
    for key, value in row.items():
        if key in BESIDE or isinstance(value, bool):
            continue
        if isinstance(value, (int, float)) or value in ("NaN", "Infinity", "-Infinity"):
            with suppress(OverflowError):  # a whole number of hundreds of digits
                found[key[:NAME]] = float(value)
    return found


def thinned(points: list[Point]) -> list[Point]:
    """At most `POINTS` of the points: of each stretch its lowest and its highest, so that no spike is lost; a stretch
    with a value that is not finite keeps that too. The first and the last point stay."""
    if len(points) <= POINTS:
        return points
    first, *between, last = points
    stretch = math.ceil(len(between) / ((POINTS - 2) // 3))
    kept = [first]
    for start in range(0, len(between), stretch):
        part = range(start, min(start + stretch, len(between)))
        finite = [i for i in part if math.isfinite(between[i][1])]
        chosen = set([i for i in part if not math.isfinite(between[i][1])][:1])
        if finite:
            chosen |= {min(finite, key=lambda i: between[i][1]), max(finite, key=lambda i: between[i][1])}
        kept += [between[i] for i in sorted(chosen)]
    return [*kept, last]
