"""The table of benchmarks/speed.py as a part of a page, and as a plot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from canvas import Canvas
from PIL import Image
from rows import HEAD, Row

BEGIN, END = "<!-- written by benchmarks/speed.py --docs -->", "<!-- until here -->"

# --- the page --------------------------------------------------------------------------------------------------------


def part(result: Mapping[str, Any]) -> str:
    """The machine, the table and the notes to its rows, in Markdown."""
    rows = [Row(**row) for row in result["rows"]]
    lines = [told(result), "", f"| {' | '.join(HEAD[:-1])} | |", "|---" * len(HEAD) + "|"]
    notes = []
    for row in rows:
        *cells, note = row.cells()
        notes += [note] if note and note not in notes else []
        number = f"[{notes.index(note) + 1}]" if note else ""
        lines.append(f"| {' | '.join(cells)} | {number} |")
    lines += ["", *(f"{i}. {note}" for i, note in enumerate(notes, 1))]
    return "\n".join(lines)


def told(result: Mapping[str, Any]) -> str:
    """When, on what machine, and how many of the holds are reached."""
    held = [row.held for row in (Row(**row) for row in result["rows"])]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    busy = f", which others used too (load {result['load']:.1f} per core)" if result["load"] > 1 else ""
    counts = f"{held.count(True)} held, {held.count(False)} missed"
    return f"{result['date']}: {result['machine']}{busy}; threads: {result['threads']}; {versions}. {counts}."


def write(result: Mapping[str, Any], page: Path) -> None:
    """Put it into a page, in place of what is between the two marks.

    Raises:
        ValueError: the page has not both of them.
    """
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no '{BEGIN}' with '{END}' after it")
    page.write_text(f"{before}{begin}\n\n{part(result)}\n\n{end}{after}", encoding="utf-8")


# --- the plot --------------------------------------------------------------------------------------------------------

WORDS, WIDTH, BAR, MARGIN = 600, 420, 22, 40
COLORS = {True: "#228833", False: "#ee6677", None: "#999999"}


def plot(rows: Sequence[Row]) -> Image.Image:
    """How many times as fast or small we are, on a logarithmic axis, with the quartiles; a stroke is what is to hold.
    Rows that count nothing on our side have no ratio to draw."""
    shown = [row for row in rows if row.ratio["median"] > 0]
    drawn = [tuple(better(row, row.ratio[which]) for which in ("median", "low", "high")) for row in shown]
    holds = [better(row, float(row.hold.split()[1])) if row.hold else 1.0 for row in shown]
    ends = [math.log10(value) for values in drawn for value in values] + [math.log10(hold) for hold in holds]
    left, right = min(-0.3, *ends) - 0.05, max(0.5, *ends) + 0.05
    height = 2 * MARGIN + BAR * len(shown)
    canvas = Canvas(WORDS + WIDTH + MARGIN, height)

    def at(ratio: float) -> float:
        return WORDS + (math.log10(ratio) - left) / (right - left) * WIDTH

    for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000):
        if left <= math.log10(tick) <= right:
            canvas.line(
                (at(tick), MARGIN), (at(tick), height - MARGIN), color="#999999" if tick == 1 else "#dddddd", width=1
            )
            canvas.text(at(tick), height - MARGIN + 14, f"{tick:g}", "mm")
    canvas.text(WORDS, MARGIN / 2, "times as fast as the one beside; quartiles; stroke: what is to hold", "lm")
    for i, (row, (median, low, high), hold) in enumerate(zip(shown, drawn, holds, strict=True)):
        y = MARGIN + BAR * (i + 0.5)
        canvas.text(WORDS - 8, y, f"{row.what} / {row.peer_name}", "rm")
        canvas.bar((at(1), y - 6), (at(median), y + 6), COLORS[row.held])
        canvas.line((at(low), y), (at(high), y), color="black", width=1)
        canvas.line((at(hold), y - 9), (at(hold), y + 9), color="black", width=2)
    return canvas.image()


def better(row: Row, ratio: float) -> float:
    """Above 1 we are better, whichever way round the row's ratio is."""
    return 1 / ratio if row.hold.startswith("<=") else ratio
