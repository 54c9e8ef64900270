"""The page: `report.html`, one file that needs no other and asks no network."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from sgm_core.files import inside, replacing
from sgm_core.runs.lines import METRICS
from sgm_plugins.reading import read_json
from sgm_plugins.tools.report.curves import Curves, Point
from sgm_plugins.tools.report.pictures import Album, Pictures
from sgm_plugins.tools.report.record import Record, number

FILE = "report.html"

DRAWN = 1e300
"""Above, the height of a chart is no float any more."""

LINES, LINE = 3000, 400
"""Lines of the config that are shown, and letters of each."""


class Report:
    """Makes the report of a run's folder, again and again: what was read once is remembered.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.curves = Curves(folder / METRICS)
        self.pictures = Pictures(folder / "images")

    def write(self, record: Record, *, to: Path | None = None, picture_seconds: float | None = None) -> Path:
        """Replace the page by one of now. A kill leaves the old one whole.

        Args:
            record: of the run; a step that it does not know is taken from the metrics.
            to: the file; by default `report.html` in the folder.
            picture_seconds: how long pictures may be read; what is not read by then follows with the next call.
        """
        self.curves.read()
        if not record.step and self.curves.last_step is not None:
            record.step = self.curves.last_step + 1
        page = render(
            self.folder.resolve().name,
            record,
            self.curves.curves,
            self.pictures.read(picture_seconds),
            components(self.folder),
            [f"the metrics {', '.join(sorted(self.curves.left_out))}"] if self.curves.left_out else [],
            self.curves.epoch,
        )
        to = self.folder / FILE if to is None else to
        with replacing(to) as temporary:
            temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
        return to


def components(folder: Path) -> list[dict[str, str]]:
    """The rows of a run's `lock.json`; none where it cannot be read."""
    try:
        rows = read_json(inside(folder, "lock.json"))
    except ValueError:
        return []
    return [row for row in rows if isinstance(row, dict)][:LINES] if isinstance(rows, list) else []


def render(
    name: str,
    record: Record,
    curves: Mapping[str, list[Point]],
    album: Album,
    locked: Iterable[Mapping[str, Any]],
    left_out: Iterable[str] = (),
    epoch: int | None = None,
) -> str:
    """The HTML: `page.html.jinja`, filled in.

    Every text that is not ours is escaped, numbers and pictures travel as JSON, which is no script; and the page's
    policy lets nothing run but our own script, known by its hash, and nothing be loaded at all.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    template, script, style = (
        files(__package__).joinpath(file).read_text(encoding="utf-8")
        for file in ("page.html.jinja", "page.js", "page.css")
    )
    drawn = charts({**curves, **throughput(record)})
    data = {
        "state": record.state,
        "updated": record.updated,
        "interval": record.interval,
        "resumed": [session["step"] for session in record.sessions[1:] if number(session.get("step"))],
        "charts": drawn,
        "steps": album.steps,
        "pictures": album.pictures,
        "shown": album.shown,
    }
    notes = [*left_out, *album.notes]
    if len(record.config) > LINES:
        notes.append(f"{len(record.config) - LINES} lines of the config")
    state = record.state if record.state in STATES else "unknown"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    return environment.from_string(template).render(
        name=name,
        record=record,
        state=state,
        state_in_words=STATES[state],
        written=when(record.updated) if record.updated else "",
        tiles=tiles(record, epoch),
        charts=drawn,
        album=album,
        config=record.config[:LINES],
        components=[[row.get(key, "") for key in ("kind", "name", "distribution", "version")] for row in locked],
        sessions=[
            (when(session.get("started")), f"from step {session.get('step', 0)}", session.get("command", ""))
            for session in record.sessions
        ],
        notes=notes,
        longest=LINE,
        # our own, and what cannot end its element
        data=Markup(as_json(data)),
        style=Markup(style),
        script=Markup(script),
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    )


def as_json(data: Any) -> str:
    """JSON that may stand inside a script element: no `<`, hence no end of it, and no line ends of Unicode."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


# --- charts --------------------------------------------------------------------------------------------------------


def charts(curves: Mapping[str, list[Point]]) -> list[dict[str, Any]]:
    """The curves in groups, a chart each: losses first, then the learning rate, then the throughput, then the rest."""
    groups: dict[str, list[str]] = {}
    for key in curves:
        groups.setdefault(group(key), []).append(key)
    first = ["loss", "learning rate", "steps per second", "samples per second"]

    def place(title: str) -> tuple[int, str]:
        if "loss" in title and title != "loss":
            return 0, f"~{title}"
        return (first.index(title), "") if title in first else (len(first), title)

    return [
        {
            "title": title,
            "ordered": "sigma" in title,
            "series": [series(key, curves[key]) for key in sorted(groups[title], key=natural)],
        }
        for title in sorted(groups, key=place)
    ]


def group(key: str) -> str:
    """The chart that a metric stands in: `loss`, `val_loss` and `val_loss_ema` share one, `train/kl_loss`,
    `val/kl_loss` and `val_ema/kl_loss` another, `a/b/c` stands with the others of `a/b`, and the bins `loss/sigma_0.1`,
    `loss/sigma_1`, ... have theirs."""
    parent, slash, last = key.rpartition("/")
    if re.fullmatch(r"(train|val|validation|test)(_ema)?", parent):
        parent, slash = "", ""  # of one quantity, in training and in validation
    if found := re.match(r"(.*sigma)[_= ]?[-+0-9.]", last):
        return f"{parent} by {found[1]}" if slash else found[1]
    if re.fullmatch(r"((train|val|validation|test)_)?loss(_ema|_step|_epoch)?", last):
        return "loss"
    if re.match(r"lr\b|lr[-_]|learning_rate", last):
        return "learning rate"
    return parent if slash else last


def natural(key: str) -> list[Any]:
    """A key for sorting in which numbers count as such: sigma_2 before sigma_10."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:e[-+]?\d+)?)", key)
    return [(0, float(part), "") if i % 2 else (1, 0.0, part) for i, part in enumerate(parts)]


def series(key: str, points: list[Point]) -> dict[str, Any]:
    """A curve for JSON; a value that is not finite, or too large to be drawn, is null."""
    return {
        "name": key,
        "x": [step for step, _ in points],
        "y": [float(f"{value:.6g}") if abs(value) < DRAWN else None for _, value in points],  # nan is not below
    }


def throughput(record: Record) -> dict[str, list[Point]]:
    """Steps and samples per second between the marks of the clock."""
    steps, samples = [], []
    for (step, sample, second), (step_, sample_, second_) in zip(record.pace, record.pace[1:], strict=False):
        if second_ > second and step_ > step:
            steps.append((int(step_), (step_ - step) / (second_ - second)))
            samples.append((int(step_), (sample_ - sample) / (second_ - second)))
    return {"steps per second": steps, "samples per second": samples} if steps else {}


# --- words ---------------------------------------------------------------------------------------------------------

STATES = {
    "running": "running",
    "finished": "finished",
    "interrupted": "interrupted",
    "failed": "failed",
    "killed": "ended without a word: killed, or the machine went down",
    "unknown": "its end was not recorded",
}


def tiles(record: Record, epoch: int | None) -> list[tuple[str, str]]:
    """The numbers at the top: what they are, and their values in words."""
    rate = _rate(record)
    found = [("step", f"{record.step:,}" + (f" of {record.total_steps:,}" if record.total_steps else ""))]
    if epoch is not None:
        found.append(("epoch", f"{epoch:,}"))
    if record.seconds:
        found.append(("time", duration(record.seconds)))
    if rate is not None:
        found += [("steps/s", f"{rate[0]:.3g}"), ("samples/s", f"{rate[1]:.3g}")]
        if record.state == "running" and record.total_steps and rate[0]:
            found.append(("remaining", duration(max(record.total_steps - record.step, 0) / rate[0])))
    if record.seconds and record.waiting:
        found.append(("waiting for data", f"{record.waiting / record.seconds:.0%}"))
    if record.samples:
        found.append(("samples", f"{record.samples:,}"))
    return found


def _rate(record: Record) -> tuple[float, float] | None:
    """Steps and samples per second, lately: over the last ten marks of the clock."""
    if len(record.pace) < 2:
        return None
    (step, samples, seconds), (last_step, last_samples, last_seconds) = record.pace[-10:][0], record.pace[-1]
    passed = last_seconds - seconds
    return ((last_step - step) / passed, (last_samples - samples) / passed) if passed > 0 else None


def when(seconds: Any) -> str:
    """A time since 1970 on the clock here; nothing for what is none."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(seconds)))
    except (TypeError, ValueError, OverflowError, OSError):
        return ""


def duration(seconds: float) -> str:
    """`3 d 4 h`, `2 h 5 min`, `4 min 7 s`, `12 s`."""
    days, rest = divmod(round(seconds), 86_400)
    hours, rest = divmod(rest, 3600)
    minutes, left = divmod(rest, 60)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {left} s" if minutes else f"{left} s"
