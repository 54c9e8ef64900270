"""Runs commands over the files of strangers in a process that watches itself; the parent reads what happened.

`python watched.py JOBS.json ANSWERS.json`. A job is {"name", "command"}. Its answer is {"name", "code", "events"}: the
exit code, or the name of the exception that `main` let through, and what happened meanwhile that never should.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

FAMILIES = ("subprocess.", "socket.", "urllib.", "http.", "pty.", "webbrowser.", "ftplib.", "smtplib.", "winreg.")
HARMLESS = ("socket.__new__", "socket.gethostname")
PROCESSES = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "os.startfile")
QUESTIONS = ("builtins.input", "getpass")
CHANGES = (
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "os.utime",
)
LOOKS = ("os.listdir", "os.scandir")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC

events: list[str] = []
watching = False
strangers = forbidden = ""
"""Folders: of the files that are read, and where nothing is to be read or written. With a separator at their end."""
writable: tuple[str, ...] = ()


class TooLongError(BaseException):
    """A command took more CPU seconds than a file may cost."""


def real(path: Any) -> str:
    """Where a path leads; empty for what is none."""
    named = isinstance(path, (str, bytes, os.PathLike)) and not str(path).startswith("<")  # <string>
    return os.path.realpath(os.fsdecode(path)) if named else ""


def place(path: Any) -> str:
    """Where a name stands; a link that has it is not followed."""
    folder, name = os.path.split(os.fsdecode(path)) if isinstance(path, (str, bytes, os.PathLike)) else ("", "")
    return os.path.join(real(folder or "."), name) if name else ""  # noqa: PTH118


def watch(event: str, given: tuple[Any, ...]) -> None:
    if not watching:
        return
    if (event.startswith(FAMILIES) and event not in HARMLESS) or event in PROCESSES or event in QUESTIONS:
        events.append(f"{event} {given!r:.200}")
    elif event == "exec":
        if real(getattr(given[0], "co_filename", "")).startswith(strangers):
            events.append(f"{event} {given[0].co_filename}")
    elif event == "ctypes.dlopen":
        if "/" in str(given[0]) and real(given[0]).startswith(strangers):
            events.append(f"{event} {given[0]}")
    elif event == "open":
        path, writes = real(given[0]), set(given[1] or "") & set("wax+") or (given[2] or 0) & WRITING
        if path.startswith(forbidden):
            events.append(f"{'writes' if writes else 'reads'} {path}")
        elif writes and path and not path.startswith(writable):
            events.append(f"writes {path}")
    elif event in LOOKS:
        if f"{real(given[0] or '.')}/".startswith(forbidden):
            events.append(f"{event} {given[0]}")
    elif event in CHANGES or event.startswith("shutil."):
        for path in map(place, given[: 2 if event in ("os.rename", "os.link") else 1]):
            if path and not path.startswith(writable):
                events.append(f"{event} {given!r:.200}")


def too_long(number: int, frame: FrameType | None) -> None:
    raise TooLongError


def run(command: list[str]) -> int | str:
    from sgm_core.cli.app import main

    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        return main(command)
    except SystemExit as end:  # usage
        return end.code if isinstance(end.code, int) else "SystemExit"
    except BaseException as error:
        return type(error).__name__
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    strangers, forbidden = (os.path.realpath(given[name]) + "/" for name in ("strangers", "forbidden"))
    writable = tuple(os.path.realpath(folder) + "/" for folder in given["writable"])
    writable += ("/dev/null", "/dev/shm/", f"/proc/{os.getpid()}/")
    seconds = given["seconds"]
    signal.signal(signal.SIGPROF, too_long)
    for command in given["before"]:  # imports what the commands need
        assert run(command) in (0, 1), command
    resource.setrlimit(resource.RLIMIT_AS, (given["memory"],) * 2)
    sys.addaudithook(watch)
    answers = []
    for job in given["jobs"]:
        events.clear()
        sys.stdout.write(f"\n=== {job['name']}\n")
        sys.stdout.flush()
        watching = True
        code = run(job["command"])
        watching = False
        answers.append({**job, "code": code, "events": list(events)})
    stolen = [
        name
        for name, module in list(sys.modules.items())
        if real(getattr(module, "__file__", None)).startswith(strangers)
    ]
    watching = True
    os.system("true")  # that the hook sees what it is there for
    watching = False
    Path(sys.argv[2]).write_text(
        json.dumps({"answers": answers, "modules": stolen, "control": events}), encoding="utf-8"
    )
