"""Files that are either the old ones or the new ones, whatever happens in between."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file through a temporary one in the same folder, which takes its place when all is on the disk.

        with replacing(folder / "last.ckpt") as temporary:
            torch.save(checkpoint, temporary)

    An exception inside leaves the old file as it was and no other behind. The temporary file is empty and new, under a
    name that nobody can foresee, so no link is followed. The new file has the permissions that the umask allows.
    """
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.tmp")
    temporary.touch(exist_ok=False)
    mode = temporary.stat().st_mode
    try:
        yield temporary
        temporary.chmod(mode)  # safetensors makes files that only their owner can read
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def is_temporary(path: Path) -> bool:
    """Whether `replacing` made this file, today's or an earlier one."""
    return re.fullmatch(r"\..+\.(\d+|[0-9a-f]{16})\.tmp|\.writable", path.name) is not None


def sweep(folder: Path) -> None:
    """Remove the temporary files that killed processes have left in a folder. Nobody else may be writing there."""
    for path in folder.iterdir():
        if is_temporary(path):
            path.unlink(missing_ok=True)


def links_out(folder: Path) -> Iterator[Path]:
    """Every symbolic link below a folder that leads out of it. No link is followed."""
    root = os.path.realpath(folder)
    for parent, folders, files in os.walk(folder):
        for path in (Path(parent, name) for name in (*folders, *files)):
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root):  # realpath takes loops
                yield path


class Tolerant(AbstractContextManager["Tolerant", bool]):
    """Makes a write that fails a warning, once until one succeeds again: training must not end for it.

        with self.tolerant:
            file.write(line)

    Args:
        what: is written, for the warning.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.failing = False

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
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
