"""What a run keeps about itself that its other files do not say: `run.json`."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import socket
import sys
import time
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from sgm_core.files import inside, replacing
from sgm_plugins.reading import read_object
from sgm_plugins.sharing import HIDDEN, shareable

FILE = "run.json"

PACE = 512
"""Marks of the clock that are kept; above, every second one goes."""

LARGEST = 2.0**53
"""Of a number in a record: above it, not every whole number is a float."""

PRIVATE = ("host", "working folder", "command")
"""What the environment of a record says about the machine and its user."""

SILENCE = 600.0
"""Seconds without a word after which a run that claims to be going on is taken for dead."""


@dataclass
class Record:
    """The state of a run.

    Attributes:
        state: "running", "finished", "interrupted" (Ctrl-C, a signal) or "failed"; for who reads also "killed" (it
            ended without a word) and "unknown" (a folder without a record).
        reason: why it failed, one line.
        step: optimizer steps done.
        total_steps: optimizer steps to do; none where that is open.
        updated: when this was written, in seconds since 1970.
        seconds: spent training, all sessions together.
        waiting: of these, for data, on rank 0.
        samples: trained on, on all ranks.
        interval: seconds between two reports.
        sessions: each start of the run: `{"started", "step", "command"}`, without the command where it is to be shared.
        environment: of the last session, for people.
        config: the lines of the config, each with where it came from.
        pace: marks of the clock, `[step, samples, seconds]`.
        host, pid: the process that trains; of the host a digest.
    """

    state: str = "unknown"
    reason: str = ""
    step: int = 0
    total_steps: int | None = None
    updated: float = 0.0
    seconds: float = 0.0
    waiting: float = 0.0
    samples: int = 0
    interval: float = 10.0
    sessions: list[dict[str, Any]] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    config: list[list[str]] = field(default_factory=list)
    pace: list[list[float]] = field(default_factory=list)
    host: str = ""
    pid: int = 0

    def write(self, folder: Path) -> None:
        """Replace the folder's record."""
        self.updated = time.time()
        with replacing(folder / FILE) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    def mark(self) -> None:
        """Note what was done by now, for the throughput over time."""
        if not self.pace or self.pace[-1][0] != self.step:
            self.pace.append([self.step, self.samples, round(self.seconds, 3)])
        if len(self.pace) > PACE:
            del self.pace[1:-1:2]

    @property
    def alive(self) -> bool:
        """Whether the process that says it trains is there, as far as one can tell from here."""
        if time.time() - self.updated > max(SILENCE, 20 * self.interval):
            return False
        return self.host not in (host(), socket.gethostname()) or exists(self.pid)


def read_record(folder: Path) -> Record:
    """The record of a run; of one without, or with one that cannot be read, an empty one.

    A run that claims to be running while its process is gone has the state "killed".
    """
    try:
        found = read_object(inside(folder, FILE))
    except ValueError:
        return Record()
    record = Record()
    for item in fields(Record):
        default, value = getattr(record, item.name), found.get(item.name)
        if isinstance(default, float):
            fits = number(value)
        else:
            fits = type(value) is (int if item.name == "total_steps" else type(default))
        if fits and (type(value) is not int or number(value)):
            setattr(record, item.name, value)
    record.sessions = [session for session in record.sessions if isinstance(session, dict)]
    record.environment = {key: value for key, value in record.environment.items() if isinstance(value, str)}
    record.config = [line for line in record.config if isinstance(line, list) and [type(x) for x in line] == [str, str]]
    record.pace = [mark for mark in record.pace if isinstance(mark, list) and len(mark) == 3 and all(map(number, mark))]
    if record.state == "running" and not record.alive:
        record.state = "killed"
    return record


def number(value: Any) -> bool:
    """Whether a value of somebody else is a number that can be computed with."""
    return type(value) in (int, float) and -LARGEST <= value <= LARGEST


def host() -> str:
    """Which machine this is, to compare, not to read."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:16]


def shared(record: Record) -> Record:
    """A record without what tells the machine and its user: command lines, folders, the host's name."""
    return replace(
        record,
        reason=shareable(record.reason),
        sessions=[{key: value for key, value in session.items() if key != "command"} for session in record.sessions],
        environment={key: shareable(value) for key, value in record.environment.items() if key not in PRIVATE},
        config=[shared_line(line) for line in record.config],
    )


def shared_line(line: list[str]) -> list[str]:
    """A line of a config, `[text, origin]`. What the command line gave is left out, but for numbers, switches and names
    of components: it may be a secret."""
    text, origin = line
    told = _OVERRIDE.sub(lambda found: found[0] if _NUMBERS.fullmatch(found[2]) else f"{found[1]}{HIDDEN}'", origin)
    key, colon, value = text.partition(": ")
    if told != origin and colon and key.strip(" -") != "use" and not _NUMBERS.fullmatch(value):
        text = f"{key}: {HIDDEN}"
    provider, comma, place = told.rpartition(", ")
    if _PLACE.search(place):  # of the file its name alone
        told = provider + comma + re.split(r"[\\/]", place)[-1]
    return [shareable(text), shareable(told)]


_OVERRIDE = re.compile(r"(override '[^=]*=)(.*)'", re.DOTALL)
_PLACE = re.compile(r":\d+(:\d+)?$")
_NUMBERS = re.compile(r"[-+.\deE_, \[\]]*|true|false|null")


def exists(pid: int) -> bool:
    """Whether there is such a process here."""
    if os.name != "posix" or pid <= 0:
        return pid > 0
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def environment(device: str) -> dict[str, str]:
    """Where a run trains: versions and machine. Nothing of it asks a version control system.

    Args:
        device: what the model is on, in words.
    """
    from importlib.metadata import version

    import lightning
    import torch

    return {
        "device": device,
        "sgm-core": version("sgm-core"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "CUDA": torch.version.cuda or "none",
        "system": platform.platform(),
        "processor": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads for torch",
        "host": socket.gethostname(),
        "working folder": str(Path.cwd()),
        "command": command(),
    }


def command() -> str:
    """The command line, as a user would type it."""
    import shlex

    program, *arguments = sys.argv or [""]
    return shlex.join([Path(program).name or "python", *arguments])
