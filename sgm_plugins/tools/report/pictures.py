"""The grids of a run, from its `images/`, small enough to stand in the page."""

from __future__ import annotations

import base64
import io
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

from sgm_core.files import inside, read_text

LONGEST_SIDE = 640
"""Pixels above which a grid is made smaller."""

SMALL = 96_000
"""Bytes up to which a file of at most `LONGEST_SIDE` pixels is taken as it is."""

BUDGET = 5_000_000
"""Bytes of all pictures together; in the page they take a third more."""

STEPS = 64
"""Steps at which grids are shown; above, every second one, every fourth one, ... and the last."""

KEYS = 12
"""Kinds of grids that are shown."""

TEXTS, TEXT = 64, 300
"""Captions of a batch, and letters of each."""

_GRID = re.compile(r"(?P<key>.+)-step-(?P<step>\d{1,15})\.(?P<type>png|txt)")


@dataclass
class Album:
    """What is shown.

    Attributes:
        steps: at which something was drawn, in order.
        pictures: different ones, as data URIs.
        shown: for each key the number of the picture at each step; none where nothing was drawn.
        captions: the texts of the batch that is drawn, by key.
        notes: what was left out.
    """

    steps: list[int] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)
    shown: dict[str, list[int | None]] = field(default_factory=dict)
    captions: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Pictures:
    """The grids of a folder. Each file is read once; which are shown changes little when new ones come.

    Args:
        folder: `images/` of a run; none there yet is an empty one. Links, pipes and folders in it are passed over.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._encoded: dict[Path, tuple[tuple[int, int], bytes | None]] = {}
        self._stride = 1  # what did not fit once will not fit later

    def read(self, seconds: float | None = None) -> Album:
        """What is to be shown now.

        Args:
            seconds: how long files may be read; what is not read by then follows with the next call. None: no limit.
        """
        files: dict[str, dict[int, Path]] = {}
        texts: dict[str, Path] = {}
        for path in self._files():
            if (found := _GRID.fullmatch(path.name)) is None:
                continue
            if found["type"] == "txt":
                texts[found["key"]] = path  # of the latest step: names are in the order of the steps
            else:
                files.setdefault(found["key"], {})[int(found["step"])] = path
        album = Album(captions={key: captions(path) for key, path in texts.items()})
        keys = sorted(files, key=lambda key: (key != "samples", key))
        if len(keys) > KEYS:
            album.notes.append(f"{len(keys) - KEYS} of {len(keys)} kinds of pictures: {', '.join(keys[KEYS:])[:TEXT]}")
        files = {key: files[key] for key in keys[:KEYS]}
        self._choose(files, album, None if seconds is None else time.monotonic() + seconds)
        return album

    def _files(self) -> list[Path]:
        try:
            with os.scandir(inside(self.folder.parent, self.folder.name)) as entries:
                return sorted(Path(entry.path) for entry in entries if entry.is_file(follow_symlinks=False))
        except (OSError, ValueError):
            return []

    def _choose(self, files: dict[str, dict[int, Path]], album: Album, until: float | None) -> None:
        """Fill the album: all steps, or every second, fourth, ... one, as the budget allows."""
        steps = sorted({step for by_step in files.values() for step in by_step})
        while True:
            chosen = every(steps, self._stride)
            if len(chosen) > STEPS:
                self._stride *= 2
                continue
            paths = [by_step[step] for by_step in files.values() for step in reversed(chosen) if step in by_step]
            late = [path for path in paths if not self._encode(path, until)]
            data = {path: self._encoded[path][1] for path in paths if path in self._encoded}
            if sum(map(len, {d for d in data.values() if d})) <= BUDGET or not files:
                break
            if len(chosen) > 2:
                self._stride *= 2
            else:
                album.notes.append(f"the pictures '{files.popitem()[0]}', which are too large")
        broken = [path.name for path, found in data.items() if found is None]
        if broken:
            album.notes.append(f"{len(broken)} pictures that cannot be read: {', '.join(broken)[:TEXT]}")
        if late:
            album.notes.append(f"{len(late)} pictures for now, which have not been read yet")
        if len(chosen) < len(steps):
            album.notes.append(f"the grids of {len(steps) - len(chosen)} of {len(steps)} steps, in between")
        self._encoded = {path: self._encoded[path] for path in data}
        album.steps = chosen
        numbers: dict[bytes, int] = {}
        for key, by_step in files.items():
            found = [data.get(by_step[step]) if step in by_step else None for step in chosen]
            album.shown[key] = [None if d is None else numbers.setdefault(d, len(numbers)) for d in found]
        album.pictures = [uri(d) for d in numbers]

    def _encode(self, path: Path, until: float | None) -> bool:
        """Whether a file is at hand, after reading it if there is time."""
        try:
            status = path.stat()
        except OSError:
            self._encoded[path] = (0, 0), None
            return True
        version = (status.st_mtime_ns, status.st_size)
        if path not in self._encoded or self._encoded[path][0] != version:
            if until is not None and time.monotonic() > until:
                return False
            self._encoded[path] = version, encode(path)
        return True


def every(steps: list[int], stride: int) -> list[int]:
    """Every `stride`-th step, and the last."""
    chosen = steps[::stride]
    return chosen if not steps or chosen[-1] == steps[-1] else [*chosen, steps[-1]]


def encode(path: Path) -> bytes | None:
    """The bytes of a picture, PNG or JPEG; None where it is none."""
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as image:
            if max(image.size) <= LONGEST_SIDE and path.stat().st_size <= SMALL:
                image.verify()
                return path.read_bytes()
            image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
            buffer = io.BytesIO()
            image.convert("L" if image.mode == "L" else "RGB").save(buffer, "JPEG", quality=85)
            return buffer.getvalue()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # all that Pillow says of a broken file
        return None


def uri(data: bytes) -> str:
    """A picture as a link that holds it."""
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def captions(path: Path) -> list[str]:
    """The first lines of a file of captions, long ones cut."""
    try:
        lines = read_text(path).removesuffix("\n").split("\n")[:TEXTS]
    except (OSError, ValueError):
        return []
    return [line if len(line) <= TEXT else line[:TEXT] + "…" for line in lines]
