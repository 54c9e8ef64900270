"""What a run keeps about itself that its other files do not say: `run.json`."""

from __future__ import annotations

import json
import math
import os
import platform
import socket
import sys
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from sgm_core.files import parse_json, read_text, replacing

FILE = "run.json"

PACE = 512
"""Marks of the clock that are kept; above, every second one goes."""

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
        sessions: each start of the run: `{"started", "step", "command"}`.
        environment: of the last session, for people.
        config: the lines of the config, each with where it came from.
        pace: marks of the clock, `[step, samples, seconds]`.
        host, pid: the process that trains.
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
        return self.host != socket.gethostname() or exists(self.pid)


def read_record(folder: Path) -> Record:
    """The record of a run; of one without, or with one that cannot be read, an empty one.

    A run that claims to be running while its process is gone has the state "killed".
    """
    try:
        found = parse_json(read_text(folder / FILE), folder / FILE)
    except (OSError, ValueError):
        return Record()
    if not isinstance(found, dict):
        return Record()
    record = Record()
    for item in fields(Record):
        default, value = getattr(record, item.name), found.get(item.name)
        if isinstance(default, float):
            fits = _number(value)
        else:
            fits = type(value) is (int if item.name == "total_steps" else type(default))
        if fits:
            setattr(record, item.name, value)
    record.sessions = [session for session in record.sessions if isinstance(session, dict)]
    record.config = [line for line in record.config if isinstance(line, list) and [type(x) for x in line] == [str, str]]
    record.pace = [
        mark for mark in record.pace if isinstance(mark, list) and len(mark) == 3 and all(map(_number, mark))
    ]
    if record.state == "running" and not record.alive:
        record.state = "killed"
    return record


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


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
