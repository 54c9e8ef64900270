"""Commands in a process that watches itself, on a pseudo-terminal of its own, and what they did that no file may."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from support.processes import PATIENCE


class Job(NamedTuple):
    """A command, and which of the files it is that it reads."""

    name: str
    command: list[str]


WATCHED = Path(__file__).with_name("watched.py")
SECONDS = 10
"""Of CPU, that a file may cost."""

ALLOWED = re.compile(r"[^\x00-\x1f\x7f-\x9f]|\n|\r")
"""Of what is printed: no control characters but ends of lines, and the return with which a progress bar starts anew."""


class Watched(NamedTuple):
    """What a watched process did, and what it printed for each job."""

    answers: list[dict[str, Any]]
    modules: list[str]
    control: list[str]
    said: list[str]


def watched(folder: Path, jobs: list[Job], memory: int, before: list[list[str]], **folders: Any) -> Watched:
    """Runs commands in a watched process, on a pseudo-terminal of its own."""
    given, answers = folder / "jobs.json", folder / "answers.json"
    asked = {"jobs": [job._asdict() for job in jobs], "memory": memory, "before": before, "seconds": SECONDS, **folders}
    given.write_text(json.dumps(asked, default=str))
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    for name in ("gs", "ffmpeg", "git", "curl"):
        (programs / name).write_text(f"#!/bin/sh\ntouch '{folder}/marks/{name}'\n")
        (programs / name).chmod(0o755)
    master, slave = os.openpty()
    modes = termios.tcgetattr(slave)
    modes[1] &= ~termios.OPOST  # bytes as they are written
    termios.tcsetattr(slave, termios.TCSANOW, modes)
    environment = os.environ | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",
    }
    printed = bytearray()

    def read() -> None:
        try:
            while block := os.read(master, 65536):
                printed.extend(block)
        except OSError:  # the other end is closed
            return

    reading = threading.Thread(target=read)
    process = subprocess.Popen(
        [sys.executable, str(WATCHED), str(given), str(answers)],
        stdin=slave, stdout=slave, stderr=slave, cwd=folder / "strangers", env=environment, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    reading.start()
    try:
        process.wait(timeout=4 * PATIENCE)
    finally:
        process.kill()
        process.wait()
        reading.join()
        os.close(master)
    text = printed.decode("utf-8", "backslashreplace")
    said = re.split(r"\n=== .*\n", text)[1:]
    last = jobs[max(0, len(said) - 1)]
    assert answers.exists(), f"it ended with {process.returncode} in {last}: {text[-3000:]}"
    return Watched(**json.loads(answers.read_text()), said=said)


def faults(jobs: list[Job], done: Watched) -> Iterator[str]:
    """What no file may bring about: of each job that did, a line."""
    for job, answer, said in zip(jobs, done.answers, done.said, strict=True):
        odd = sorted(set(ALLOWED.sub("", said)))
        bugs = re.findall(r"A bug: .*|.*\n\(\w+; --debug shows where\)|Traceback.*|not enough memory", said)
        if answer["events"] or answer["code"] not in (0, 1) or odd or bugs:
            yield f"{job.name}: {' '.join(job.command)}: {answer['code']} {answer['events']} {odd} {bugs}"
