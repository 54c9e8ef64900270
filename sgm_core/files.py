"""Files: written as a whole or not at all; of others, read only where and what is expected."""

from __future__ import annotations

import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from sgm_core.errors import SgmError


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


def inside(folder: Path, name: object, root: Path | None = None) -> Path:
    """The file that somebody else's text names in a folder. SgmError if it is elsewhere, by its name or through a link:
    links may lead to what is in `root`, by default the folder."""
    with suppress(OSError, ValueError, RuntimeError):  # too long, a null byte, links in a circle
        if isinstance(name, str) and (folder / name).resolve().is_relative_to((root or folder).resolve()):
            return folder / name
    raise SgmError(f"{folder}: {str(name)[:100]!r} is not the name of a file in this folder")


def read_bytes(path: Path, limit: int = 16 << 20) -> bytes:
    """All of a small file that somebody else wrote. SgmError for a pipe, a device, or more bytes than `limit`."""
    # without O_NONBLOCK a pipe would wait for a writer
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
        data = file.read(limit + 1) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else None
    if data is None or len(data) > limit:
        raise SgmError(f"{path}: {'no regular file' if data is None else f'larger than {limit >> 20} MiB'}; not read")
    return data


def sweep(folder: Path) -> None:
    """Remove the temporary files that killed processes have left in a folder. Nobody else may be writing there."""
    for path in folder.glob(".*.tmp"):
        if re.fullmatch(r"\..+\.(\d+|[0-9a-f]{16})\.tmp", path.name):
            path.unlink(missing_ok=True)


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
