"""Files that are either the old ones or the new ones, whatever happens in between."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file through a temporary one in the same folder, which takes its place when all is on the disk.

        with replacing(folder / "last.ckpt") as temporary:
            torch.save(checkpoint, temporary)

    An exception inside leaves the old file as it was and no other behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove the temporary files that killed processes have left in a folder. Nobody else may be writing there."""
    for path in folder.glob(".*.tmp"):
        if re.fullmatch(r"\..+\.\d+\.tmp", path.name):
            path.unlink(missing_ok=True)


class Tolerant:
    """Makes a write that fails a warning, once until one succeeds again: training must not end for it.

        with self.tolerant:
            file.write(line)

    Args:
        what: is written, for the warning.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.failing = False

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        told, self.failing = self.failing, isinstance(error, OSError)
        if self.failing and not told:
            reason = getattr(error, "strerror", None) or error
            warnings.warn(f"{self.what} cannot be written: {reason}; training continues without", stacklevel=2)
        return self.failing


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # Windows has no handle to a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
