"""One run in a folder at a time: a lock that the operating system releases when its process ends, also by a kill."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from sgm_core.errors import SgmError
from sgm_core.files import BadFileError, parse_json, read_text, replacing

FILE = ".running.json"
"""Who runs here, for people and for other hosts."""

LOCK = ".running.lock"
"""What is locked; it is empty."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for as long as the block runs.

    `.running.json` names host and process. On this host the lock alone decides. On a file system that several hosts
    share, a lock may not reach the others: a file that names another host refuses, since nobody here can know whether
    that process still runs.

    Raises:
        SgmError: another run holds it; the message says which, and the way out. A link in it leads out of it.
    """
    lock, path = _acquired(folder), folder / FILE
    own = json.dumps({"host": socket.gethostname(), "pid": os.getpid()})
    try:
        with replacing(path) as temporary:
            temporary.write_text(own, encoding="utf-8")
        yield
    finally:
        with suppress(FileNotFoundError, BadFileError):
            if read_text(path) == own:  # else somebody removed it, and a run of another host began
                path.unlink()
        with suppress(OSError):  # Windows removes no open file; one that is removed while it is held lets nobody in
            (folder / LOCK).unlink()
        lock.release()


def refuse_held(folder: Path) -> None:
    """Refuse a folder that another run holds now, before anything in it is read: what is there changes meanwhile.

    Raises:
        SgmError: as `locked`.
    """
    if (folder / FILE).exists():
        _acquired(folder).release()


def _acquired(folder: Path) -> BaseFileLock:
    root = os.path.realpath(folder)  # a run writes into its files: those of a folder that somebody else has made, too
    for parent, folders, files in os.walk(folder):
        for path in (Path(parent, name) for name in (*folders, *files)):
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root):  # realpath takes loops
                raise SgmError(
                    f"{path}: a link that leads out of the run's folder; a run writes into its own folder only. "
                    "Replace it with what it points to"
                )
    lock, path = FileLock(folder / LOCK), folder / FILE
    try:
        lock.acquire(blocking=False)
    except Timeout:
        who = _holder(path)
        pid = "another process" if who is None else f"process {who[1]}"
        stop = "" if who is None else f", or stop it: kill {who[1]}"
        raise SgmError(f"{folder}: in use by {pid} on this machine. Wait for it{stop}") from None
    except OSError as error:
        raise SgmError(f"{folder / LOCK}: cannot be locked: {error.strerror or error}") from error
    who = _holder(path)
    refusal = None
    if who is None and path.exists():
        refusal = f"{folder}: its {FILE} cannot be read. If no run is using the folder, remove {path}"
    elif who is not None and who[0] != socket.gethostname():
        refusal = (
            f"{folder}: in use by process {who[1]} on {who[0]}, or left by it, which cannot be told from here "
            f"({socket.gethostname()}). If that run has ended, remove {path}"
        )
    if refusal is not None:
        lock.release()
        raise SgmError(refusal)
    return lock


def _holder(path: Path) -> tuple[str, int] | None:
    """Host and process that the file names; none where there is no such file, or it names none."""
    try:
        holder = parse_json(read_text(path), path)
        return str(holder["host"]), int(holder["pid"])
    except (FileNotFoundError, ValueError, KeyError, TypeError, OverflowError):
        return None
