"""One run in a folder at a time: a lock file that says who holds it, and that a killed run does not leave for ever."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sgm_core.errors import SgmError
from sgm_core.runs.processes import start_of

FILE = ".running.json"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for as long as the block runs.

    The file names host, process and when that process started. The lock of a process of this host that is no more is
    taken over; whether a process of another host lives can not be known from here.

    Raises:
        SgmError: another run holds it; the message says which, and the way out.
    """
    path = folder / FILE
    own = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "started": start_of(os.getpid())})
    while not _create(path, own):
        held = _read(path)
        if held is None:  # let go of in this moment
            continue
        refusal = _refusal(path, held)
        if refusal is not None:
            raise SgmError(refusal)
        _remove_stale(path, held)
    try:
        yield
    finally:
        if _read(path) == own:  # else somebody removed it and another run began: that lock is theirs
            path.unlink()


def refuse_held(folder: Path) -> None:
    """Refuse a folder that another run holds now, before anything in it is read: what is there changes meanwhile.

    Raises:
        SgmError: as `locked`.
    """
    held = _read(folder / FILE)
    refusal = None if held is None else _refusal(folder / FILE, held)
    if refusal is not None:
        raise SgmError(refusal)


def _create(path: Path, text: str) -> bool:
    """Create the file with its content at once, so that nobody reads half of it; false if there is one."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            return False
    finally:
        temporary.unlink(missing_ok=True)  # whoever holds the folder sweeps it
    return True


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _refusal(path: Path, held: str) -> str | None:
    """Why the folder can not be had; none if the lock is stale."""
    try:
        holder = json.loads(held)
        host, pid, started = str(holder["host"]), int(holder["pid"]), holder["started"]
    except (ValueError, KeyError, TypeError):
        return f"{path.parent}: its lock can not be read. If no run is using the folder, remove {path}"
    if host != socket.gethostname():
        return (
            f"{path.parent}: in use by process {pid} on {host}, or left by it, which can not be told from here "
            f"({socket.gethostname()}). If that run has ended, remove {path}"
        )
    now = start_of(pid)
    if now is None or now != started:  # gone, or its number belongs to another process by now
        return None
    return f"{path.parent}: in use by process {pid} on this machine. Wait for it, or stop it: kill {pid}"


def _remove_stale(path: Path, held: str) -> None:
    """Remove the lock that was read, and no other: two runs may find the same stale one."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.stale")
    try:
        path.rename(aside)
    except FileNotFoundError:  # the other one was faster
        return
    if _read(aside) != held:  # and has locked the folder already: give it back
        _create(path, aside.read_text(encoding="utf-8"))
    aside.unlink()
