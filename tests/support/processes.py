"""Commands of sgm in processes of their own: forked or started, with one interface."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from multiprocessing.process import BaseProcess
from pathlib import Path

PATIENCE = 300
"""Seconds after which a test gives up on an event. No test asserts how fast something is."""

PRELOADED = ["sgm_core.cli.app", "sgm_core.runs.run", "sgm_core.engine", "sgm_plugins.networks.unet"]
COMMAND = "import sys; from sgm_core.cli.app import main; sys.exit(main())"

ONE_AFTER_ANOTHER = """
import contextlib, io, json, sys
from sgm_core.cli.app import main

answers = []
for command in json.loads(sys.argv[1]):
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            code = main(command)
        except SystemExit as end:  # usage
            code = end.code
    answers.append((code, said.getvalue()))
json.dump(answers, sys.stdout)
"""


class Running(ABC):
    """A command that runs. It leads a process group; what it prints goes to files, so it never waits for a reader."""

    pid: int

    def __init__(self, folder: Path) -> None:
        self.printed_to, self.said_to = folder / "stdout", folder / "stderr"

    @property
    def out(self) -> str:
        """Standard output so far."""
        return self.printed_to.read_text() if self.printed_to.exists() else ""

    @property
    def err(self) -> str:
        """Standard error so far."""
        return self.said_to.read_text() if self.said_to.exists() else ""

    @property
    @abstractmethod
    def returncode(self) -> int | None:
        """None while it runs; minus the number of the signal that ended it."""

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """-9, to its workers too, as a scheduler does. Waits for the end; nothing happens if that has come."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:  # not yet the leader of a group, or all of the group is gone
            if self.returncode is None:
                os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        """Waits for the end. Gives the exit code."""
        wait_until(lambda: self.returncode is not None)
        assert self.returncode is not None
        return self.returncode

    def wait_for(self, what: Callable[[], object]) -> None:
        """Waits until something holds. Fails when the process ends before that."""
        wait_until(lambda: what() or self.returncode is not None)
        assert what(), f"it ended with {self.returncode}: {self.err}"

    def wait_for_steps(self, run: Path, steps: int) -> None:
        """Waits until the run has logged the losses of so many steps."""
        self.wait_for(lambda: logged(run) >= steps)


class Forked(Running):
    """A child of a server that has imported torch and trained nothing: started without the seconds of these imports.

    It has this process's folder, environment and `sys.path`.

    Args:
        arguments: `sys.argv[1:]`.
        folder: for its output.
        code: what it runs.
    """

    def __init__(self, arguments: Iterable[str], folder: Path, code: str = COMMAND) -> None:
        super().__init__(folder)
        processes = multiprocessing.get_context("forkserver")
        processes.set_forkserver_preload(PRELOADED)
        given = (code, list(arguments), dict(os.environ), self.printed_to, self.said_to)
        self.process: BaseProcess = processes.Process(target=_run, args=given)
        self.process.start()
        assert self.process.pid is not None
        self.pid = self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode


class Started(Running):
    """A new interpreter, as from a shell.

    Args:
        arguments: `sys.argv[1:]`.
        folder: for its output.
        code: what it runs.
    """

    def __init__(self, arguments: Iterable[str], folder: Path, code: str = COMMAND) -> None:
        super().__init__(folder)
        with self.printed_to.open("w") as out, self.said_to.open("w") as err:
            command = [sys.executable, "-c", code, *arguments]
            self.process = subprocess.Popen(command, stdout=out, stderr=err, start_new_session=True)
        self.pid = self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.poll()


def answers(commands: list[list[str]], cwd: Path, **environment: str) -> list[tuple[int, str]]:
    """Runs commands in one new interpreter, which imports torch once: of each, its exit code and standard error."""
    done = subprocess.run(
        [sys.executable, "-c", ONE_AFTER_ANOTHER, json.dumps(commands)],
        cwd=cwd,
        env={key: value for key, value in os.environ.items() if not key.startswith("SGM_")} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [(code, error) for code, error in json.loads(done.stdout)]


def wait_until(what: Callable[[], object]) -> None:
    """Waits until something holds, by looking again and again."""
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, f"waited {PATIENCE} s in vain"
        time.sleep(0.005)


def logged(run: Path) -> int:
    """How many steps of training a run has logged."""
    file = run / "metrics.jsonl"
    whole = file.read_text().split("\n")[:-1] if file.exists() else []  # the last line may be half written
    return sum("loss" in json.loads(line) for line in whole)


def _run(code: str, arguments: list[str], environment: dict[str, str], out: Path, err: Path) -> None:
    import torch

    os.setpgrp()  # its workers are of its group, and are killed with it, as by a scheduler
    for path, stream in ((out, 1), (err, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, stream)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # asks TMPDIR again
    multiprocessing.set_start_method(None, force=True)  # its workers start as those of a command do, not as it did
    torch.set_num_threads(1)
    sys.argv = ["-c", *arguments]
    exec(code, {"__name__": "__main__"})  # as `python -c`
