"""Files of others are read within limits; our own are the old ones or the new ones, whatever happens in between."""

from __future__ import annotations

import codecs
import json
import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

MOST_BYTES = 2**24
"""The most that is read of a text, 16 MiB, unless its reader allows another size."""

_CONTROL = re.compile(r"[\0-\x08\x0e-\x1f\x7f]")


class BadFileError(ValueError):
    """A file that is not what it should be.

    Args:
        place: the file, with line and column where they are known.
        reason: what is wrong.
    """

    def __init__(self, place: object, reason: str) -> None:
        super().__init__(f"{place}: {reason}")
        self.place, self.reason = str(place), reason


def open_regular(path: Path, most: int) -> BinaryIO:
    """A regular file, for reading. Nothing else is opened: a pipe would wait for ever.

    Raises:
        OSError: it cannot be read now.
        BadFileError: no regular file, or one of more than `most` bytes.
    """
    found = path.stat()
    if stat.S_IFMT(found.st_mode) not in (stat.S_IFREG, stat.S_IFDIR):  # that of a folder fails by itself
        raise BadFileError(path, "not a regular file")
    if found.st_size > most:
        raise BadFileError(path, f"larger than the {most} bytes that are read")
    return path.open("rb")


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """The content of a regular file of at most so many bytes. Raises what `open_regular` raises."""
    with open_regular(path, most) as file:
        return file.read(most)


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """The text of a file. Raises what `read_bytes` and `as_text` raise."""
    return as_text(read_bytes(path, most), path)


def as_text(content: bytes, name: object) -> str:
    r"""UTF-8, or UTF-16 that begins with a byte order mark. Every line ends in "\n", so `split("\n")` gives the lines.

    Raises:
        BadFileError: of another encoding, or with control characters.
    """
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = content.decode(encoding)
        control = _CONTROL.search(text)
        if control is None:
            return text.replace("\r\n", "\n").replace("\r", "\n")
        before, bad = text[: control.start()], f"the control character U+{ord(control[0]):04X}"
    except UnicodeDecodeError as error:
        before, bad = error.object[: error.start].decode(encoding, "replace"), f"byte 0x{error.object[error.start]:02x}"
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    raise BadFileError(
        f"{name}:{line}:{column}", f"not a UTF-8 text file: {bad} (UTF-16 is read if it begins with a byte order mark)"
    )


def parse_json(text: str, name: object) -> Any:
    """A JSON value. BadFileError for anything else, and for what is nested too deeply."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadFileError(name, f"no JSON: {error}") from error


def inside(folder: Path, name: object, root: Path | None = None) -> Path:
    """The file that somebody else's text names in a folder. BadFileError if it is elsewhere, by its name or by a link.

    Links may lead to what is in `root`, by default the folder.
    """
    with suppress(OSError, ValueError, RuntimeError):  # too long, a null byte, links in a circle
        found = (folder / str(name)).resolve()  # of links in a circle one of them, from Python 3.13 on
        if isinstance(name, str) and found.is_relative_to((root or folder).resolve()) and not found.is_symlink():
            return folder / name
    raise BadFileError(folder, f"{str(name)[:100]!r} is not the name of a file in this folder")


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
