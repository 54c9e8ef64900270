"""System calls that fail once: each one that an action makes on some paths, in a process of its own."""

import ctypes
import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple

import pytest

ERRORS = ("EIO", "ENOMEM", "EACCES")

NEVER_FAIL = frozenset({"close", "munmap"})
"""Their errors say nothing about what was read, and are ignored everywhere."""


class Failed(NamedTuple):
    """The `number`-th `call` failed with `error`; what the action then gave."""

    call: str
    number: int
    error: str
    outcome: str


def each_call_fails_once(action: Callable[[], str], paths: Sequence[Path]) -> Iterator[Failed]:
    """Run an action again and again; each time another of its calls on the paths fails.

    Args:
        action: its result is handed over; an exception counts as the name of its class.
        paths: files and folders. What is done with others does not fail.
    """
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    outcome, calls = _traced(action, paths, [])
    if not calls:
        pytest.skip("strace may not trace here")
    yield Failed("", 0, "", outcome)
    for call, count in calls.items():
        for number in range(1, count + 1):
            for error in ERRORS:
                yield Failed(call, number, error, _traced(action, paths, [(call, number, error)])[0])


def _traced(
    action: Callable[[], str], paths: Sequence[Path], failures: Sequence[tuple[str, int, str]]
) -> tuple[str, Counter[str]]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)  # anybody may trace this process
            os.kill(os.getpid(), signal.SIGSTOP)
            try:
                outcome = action()
            except BaseException as error:
                outcome = type(error).__name__
            os.write(writing, outcome.encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, os.WUNTRACED)
    with tracing(child, paths, failures) as calls, os.fdopen(reading) as file:
        outcome = file.read()
    os.waitpid(child, 0)
    return outcome, calls


@contextmanager
def tracing(stopped: int, paths: Sequence[Path], failures: Sequence[tuple[str, int, str]]) -> Iterator[Counter[str]]:
    """Lets a process go on that has stopped itself; when it has ended, gives its calls on the paths by name.

    Args:
        stopped: its number. It ends inside the block.
        paths: files and folders.
        failures: call, which of these calls, error.
    """
    inject = [f"--inject={call}:error={error}:when={number}" for call, number, error in failures]
    named = [part for path in paths for part in ("-P", str(path))]
    calls: Counter[str] = Counter()
    with (
        TemporaryFile("w+") as log,  # a pipe would be full before the end
        subprocess.Popen(["strace", "-f", "-qq", *named, *inject, "-p", str(stopped)], stderr=log) as tracer,
    ):
        while tracer.poll() is None and "TracerPid:\t0\n" in Path(f"/proc/{stopped}/status").read_text():
            time.sleep(0.002)
        os.kill(stopped, signal.SIGCONT)
        yield calls
        tracer.wait()
        log.seek(0)
        found = re.findall(r"^(?:\[pid +\d+\] )?(\w+)\(", log.read(), re.MULTILINE)
    calls.update(call for call in found if call not in NEVER_FAIL)
