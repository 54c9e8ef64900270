"""Files that are either the old ones or the new ones, whatever happens in between."""

from __future__ import annotations

import os
import re
import secrets
import stat
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

    An exception inside leaves the old file as it was and no other behind. The name of the temporary file cannot be
    guessed, and it is new: nobody can have put a link there. The file's mode follows the umask, whoever writes it. A
    link at `path` is replaced, not followed.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    mode = create(temporary)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def create(path: Path) -> int:
    """Create an empty file; gives its mode, which follows the umask.

    Raises:
        FileExistsError: there is something, be it a link to nowhere.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        return stat.S_IMODE(os.fstat(handle).st_mode)
    finally:
        os.close(handle)


def is_temporary(path: Path) -> bool:
    """Whether `replacing` made this file; older versions put their process into its name."""
    return re.fullmatch(r"\..+\.([0-9a-f]{16}|\d+)\.tmp|\.writable", path.name) is not None


def sweep(folder: Path) -> None:
    """Remove the temporary files that killed processes have left in a folder. Nobody else may be writing there."""
    for path in folder.iterdir():
        if is_temporary(path):
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
