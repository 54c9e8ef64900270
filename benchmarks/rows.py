"""A row of a table of ratios, and how the benchmarks print their tables."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import truediv
from pathlib import Path

from race import paired, summary


@dataclass(frozen=True)
class Row:
    """Our figure beside a peer's.

    Attributes:
        what: is measured.
        ours, peer: the medians, in `unit`.
        ratio: of the rounds, the median between the quartiles (`median`, `low`, `high`). It is peer / ours, how many
            times as fast or as small we are; with a hold of "<=" it is ours / peer, how near we come.
        hold: what the ratio must be, `>= 1.3` or `<= 1.05`; empty where it is only told.
        peer_name: who, or what the limit is.
        note: what else is to be known.
    """

    what: str
    ours: float
    peer: float
    unit: str
    ratio: Mapping[str, float]
    hold: str
    peer_name: str
    note: str = ""

    @property
    def held(self) -> bool | None:
        """Whether the hold is; None where there is none."""
        if not self.hold:
            return None
        sign, number = self.hold.split()
        return self.ratio["median"] >= float(number) if sign == ">=" else self.ratio["median"] <= float(number)

    def cells(self) -> tuple[str, ...]:
        ratio = f"{self.ratio['median']:.3g} ({self.ratio['low']:.3g} to {self.ratio['high']:.3g})"
        held = {None: "", True: "held", False: "MISSED"}[self.held]
        ours, peer = f"{figure(self.ours)} {self.unit}", f"{figure(self.peer)} {self.unit}"
        return self.what, ours, peer, self.peer_name, ratio, self.hold, held, self.note


HEAD = ("what", "sgm", "beside", "of", "ratio", "hold", "", "")
WIDTHS = (54, 9, 9, 27, 22, 7, 6, 0)


def compared(
    what: str, ours: Sequence[float], peer: Sequence[float], unit: str, peer_name: str, hold: str = "", note: str = ""
) -> Row:
    """The row of figures that were taken in turns: ratios are of each round, so that a slow second meets both."""
    ratios = paired(truediv, [*ours], [*peer]) if hold.startswith("<=") else paired(truediv, [*peer], [*ours])
    median, low, high, _ = summary(ratios)
    ratio = {"median": median, "low": low, "high": high}
    return Row(what, summary([*ours]).median, summary([*peer]).median, unit, ratio, hold, peer_name, note)


# --- tables ----------------------------------------------------------------------------------------------------------


def figure(value: float) -> str:
    """Three digits, or as many as the whole part has."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """A row of a table of Markdown that can be read as it is."""
    return "| " + " | ".join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True)) + " |"


def head(names: Sequence[str], widths: Sequence[int]) -> str:
    """Its first two lines."""
    return line(names, widths) + "\n|" + "|".join("-" * (max(width, 3) + 2) for width in widths) + "|"


# --- the machine -----------------------------------------------------------------------------------------------------


def machine() -> str:
    """Interpreter, system, cores and the processor's name, where it says one."""
    cpu = ""
    if (told := Path("/proc/cpuinfo")).is_file():
        names = (row.partition(":")[2].strip() for row in told.read_text().splitlines() if row.startswith("model name"))
        cpu = next(names, "")
    where = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return f"{where}, {cpu or platform.processor()}".rstrip(", ")


def load() -> float:
    """How many processes wanted to run in the last five minutes, per core."""
    return os.getloadavg()[1] / (os.cpu_count() or 1) if hasattr(os, "getloadavg") else 0.0
