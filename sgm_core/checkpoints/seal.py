"""A `.safetensors` file that holds its own SHA-256, so that a flipped bit is found. Other programs ignore it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import BinaryIO

SEAL = "sgm_sha256"
"""Its key in the metadata."""

LONGEST_HEADER = 100_000_000
"""Bytes that the safetensors library reads of it."""

OPEN = "0" * 64
"""Its value before `seal`, and what the sum is computed with."""


def seal(path: Path) -> None:
    """Read a file back that was written with `{SEAL: OPEN}` in its metadata, and put its sum there."""
    digest, place = _sum(path, OPEN)
    with path.open("r+b") as file:
        file.seek(place)
        file.write(digest.encode())


def broken_seal(path: Path) -> str | None:
    """How a file differs from what was written; None if it does not, or has no seal.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        _, header = _start(file)
    try:
        written = json.loads(header)["__metadata__"][SEAL]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if isinstance(written, str) and _sum(path, written)[0] != written:
        return "its content is not what was written (sha256)"
    return None


def _sum(path: Path, written: str) -> tuple[str, int]:
    """The SHA-256 of a file, computed as if its seal were open, and where the seal is."""
    with path.open("rb") as file:
        size, header = _start(file)
        found = hashlib.sha256(size + header.replace(written.encode(), OPEN.encode(), 1))
        hashlib.file_digest(file, lambda: found)
    return found.hexdigest(), 8 + header.find(written.encode())


def _start(file: BinaryIO) -> tuple[bytes, bytes]:
    size = file.read(8)
    return size, file.read(min(int.from_bytes(size, "little"), LONGEST_HEADER))
