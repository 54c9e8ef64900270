"""The metadata of what is installed, as `importlib.metadata` reads it: where our own scan differs, a note says so.

Python, pip and torch read it with that module. The registry reads the same files in one scan that costs a tenth.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path
from typing import NamedTuple

from sgm_core.errors import printable
from sgm_core.registry import Entry, normalize, scan

SUFFIXES = (".dist-info", ".egg-info")


class Offer(NamedTuple):
    """An entry point of ours, in the terms of both readers."""

    kind: str
    name: str
    value: str
    distribution: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.name} = {self.value} of {self.distribution}"


def broken_metadata() -> list[str]:
    """A line for each installed distribution whose entry points Python cannot read: `import torch` fails with them."""
    return [
        f"{_name(dist)}: {_file(dist)}{problem}. Python cannot read what is installed, and torch cannot "
        "be imported: repair or uninstall it"
        for dist in importlib.metadata.distributions()
        if (problem := _unreadable(dist))
    ]


def _unreadable(dist: Distribution) -> str:
    """Why its entry points cannot be read, as what follows the name of their file; nothing if they can."""
    try:
        list(dist.entry_points)
    except UnicodeDecodeError:
        return " is not UTF-8 text"
    except Exception as error:  # whatever Python says of a file that anybody may have written
        lines = (dist.read_text("entry_points.txt") or "").splitlines()
        for number, line in enumerate(map(str.strip, lines), 1):
            if line and "=" not in line and line[0] != "#" and not (line[0] == "[" and line[-1] == "]"):
                return f":{number} is no 'name = module': {line[:60]!r}"
        return f" is no list of entry points ({type(error).__name__})"
    return ""


def differences() -> list[str]:
    """A line for each entry point that the registry and `importlib.metadata` see differently, with the reason."""
    try:
        found = importlib.metadata.entry_points()
    except Exception:  # which `broken_metadata` reports
        return []
    groups = [group for group in sorted(found.groups) if group.strip().startswith("sgm.")]
    points = [point for group in groups for point in found.select(group=group)]
    entries = scan()
    theirs = {_offer(point): point for point in points if point.group.strip() != "sgm.api"}
    ours = {Offer(entry.kind, entry.name, entry.value, entry.distribution): entry for entry in entries}
    lines = [
        f"sgm does not read {offer}: {_why_not(offer, point, ours)}"
        for offer, point in theirs.items()
        if offer not in ours and not _folder(point.dist).name.startswith("~")  # what pip left of an upgrade
    ]
    lines += [
        f"sgm reads {offer}, which importlib.metadata does not: {_why_only_ours(entry, points)}"
        for offer, entry in ours.items()
        if offer not in theirs
    ]
    lines += _versions(entries, points)
    return [printable(line, 2000) for line in dict.fromkeys([*lines, *_side_by_side(entries)])]


def _offer(point: EntryPoint) -> Offer:
    value = "".join(point.value.partition("[")[0].split())
    return Offer(point.group.removeprefix("sgm."), point.name, value, normalize(_name(point.dist)))


def _why_not(offer: Offer, point: EntryPoint, ours: dict[Offer, Entry]) -> str:
    folder = _folder(point.dist)
    same = [other for other in ours if other[:2] == offer[:2] and Path(ours[other].path) == folder]
    if not folder.is_dir():
        return f"{folder.parent} is a zip file or wheel, of which nothing is read. Install it with pip"
    if folder.suffix not in SUFFIXES:
        return f"its metadata folder {folder.name} is named as no installer names it. Install it with pip"
    if any(other.distribution != offer.distribution for other in same):
        return f"its folder {folder.name} says that it is '{same[0].distribution}'. Install it with pip"
    if same:
        return f"the name is written twice in {_file(point.dist)}, and the first one counts"
    if point.group != point.group.strip():
        return f"there are spaces in its section [{point.group}]: remove them"
    return f"another copy of {offer.distribution} is found first"


def _why_only_ours(entry: Entry, points: list[EntryPoint]) -> str:
    here = [point for point in points if _folder(point.dist) == Path(entry.path)]
    if here:
        return f"there, it is of '{_name(here[0].dist)}'. Install it with pip"
    return f"another copy of {entry.distribution} is found first there"


def _versions(entries: list[Entry], points: list[EntryPoint]) -> Iterator[str]:
    """Where the name of the folder and the METADATA in it say two versions."""
    told = {_folder(point.dist): point.dist for point in points}
    for entry in entries:
        version = _field(told.get(Path(entry.path)), "Version")
        if version and version.replace("-", "_") != entry.version.replace("-", "_"):
            yield f"{entry.provider} is of version {version}, as {entry.path} says inside. Install it with pip"


def _side_by_side(entries: list[Entry]) -> Iterator[str]:
    """Several versions of one distribution in one folder: which of them Python finds is chance."""
    for path in sorted({entry.path for entry in entries}):
        folder = Path(path)
        name = _stem(folder)
        others = [
            other.name
            for other in sorted(folder.parent.iterdir())
            if other != folder and other.suffix == folder.suffix and _stem(other) == name
        ]
        if others:
            yield (
                f"{folder.parent} has {name} several times: {folder.name}, which is read, "
                f"and {', '.join(others)}. Uninstall it until it is gone, and install it again"
            )


def _stem(folder: Path) -> str:
    return normalize(folder.stem.partition("-")[0])


def _name(dist: Distribution | None) -> str:
    """As METADATA has it, or else the folder."""
    return _field(dist, "Name") or _stem(_folder(dist))


def _field(dist: Distribution | None, field: str) -> str:
    try:
        return str((dist.metadata[field] if dist is not None else "") or "")
    except Exception:  # there is no METADATA, or it is no text
        return ""


def _folder(dist: Distribution | None) -> Path:
    """The folder of its metadata; only a distribution that a finder of its own makes has none."""
    return Path(str(getattr(dist, "_path", "")))


def _file(dist: Distribution | None) -> Path:
    return _folder(dist) / "entry_points.txt"
