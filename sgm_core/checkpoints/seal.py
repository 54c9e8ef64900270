"""A `.safetensors` file that holds its own SHA-256, so that a flipped bit is found. Other programs ignore it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

SEAL = "sgm_sha256"
"""Its key in the metadata."""

OPEN_SEAL = "0" * 64
"""Its value before `seal`, and what the sum is computed with."""

LONGEST_HEADER = 100_000_000
"""Bytes that the safetensors library reads of it."""


def seal(path: Path) -> None:
    """Read a file back that was written with `{SEAL: OPEN_SEAL}` in its metadata, and put its sum there."""
    found = _read(path)
    assert found is not None
    place, _, digest = found
    with path.open("r+b") as file:
        file.seek(place)
        file.write(digest)


def is_broken(path: Path) -> bool:
    """Whether a file differs from what was written; not if it has no seal. OSError if it cannot be read."""
    found = _read(path)
    return found is not None and found[1] != found[2]


def _read(path: Path) -> tuple[int, bytes, bytes] | None:
    """Where the seal of a file is, what it says, and what it should say. None if it has none."""
    with path.open("rb") as file:
        start = file.read(8)
        start += file.read(min(int.from_bytes(start, "little"), LONGEST_HEADER))
        found = re.search(rb'"%b"\s*:\s*"([^"]*)"' % SEAL.encode(), start)
        if found is None:
            return None
        digest = hashlib.sha256(start[: found.start(1)] + OPEN_SEAL.encode() + start[found.end(1) :])
        hashlib.file_digest(file, lambda: digest)
    return found.start(1), found[1], digest.hexdigest().encode()
