"""A command of sgm in a process that can be killed, started without the seconds that it takes to import torch."""

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from sgm_core.cli.app import main


def started(arguments: list[str], tmpdir: Path | None = None) -> BaseProcess:
    """A running command; a server that has imported what it needs, and trained nothing, forks it.

    Args:
        arguments: of `sgm`.
        tmpdir: where it puts temporary files; None is the system's place.
    """
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["sgm_core.runs.run", "sgm_core.engine", "sgm_plugins.networks.unet"])
    child = processes.Process(target=_command, args=(arguments, tmpdir))
    child.start()
    return child


def kill(child: BaseProcess) -> None:
    """-9, with its workers."""
    os.killpg(child.pid, signal.SIGKILL)
    child.join()
    assert child.exitcode == -signal.SIGKILL


def train_until_killed(run: Path, arguments: list[str], step: int, delay: float) -> int:
    """Kill (-9) a training some time after it logged a step. Gives the number of steps that it logged."""
    log, deadline = run / "metrics.jsonl", time.monotonic() + 60
    before = log.read_text() if log.exists() else ""  # may hold the step already, from an earlier life
    child = started(arguments)
    while child.is_alive() and time.monotonic() < deadline:
        text = log.read_text() if log.exists() else ""
        if text != before and f'"step": {step},' in text:
            break
        time.sleep(0.002)
    time.sleep(delay)
    assert child.is_alive(), f"it ended by itself: {child.exitcode}"
    kill(child)
    return log.read_text().count("\n")


def differences(a, b, at: str = "") -> list[str]:
    """Where two checkpoints are not the same to the last bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.dtype == b.dtype and torch.equal(a, b)
    elif isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [found for key in a for found in differences(a[key], b[key], f"{at}/{key}")]
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [found for i, pair in enumerate(zip(a, b, strict=True)) for found in differences(*pair, f"{at}/{i}")]
    else:
        same = a == b
    return [] if same else [at]


def _command(arguments: list[str], tmpdir: Path | None) -> None:
    if tmpdir is not None:
        os.environ["TMPDIR"], tempfile.tempdir = str(tmpdir), None
    multiprocessing.set_start_method(None, force=True)  # its workers start as those of a command do, not as it did
    os.setpgrp()  # its workers are of its group, and are killed with it, as by a scheduler
    torch.set_num_threads(1)
    sys.exit(main(arguments))
