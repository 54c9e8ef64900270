"""What signals ask of a run: to save and end after the step, or to save and go on."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

import torch

from sgm_core.errors import EXIT_INTERRUPTED

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

EXIT_TERMINATED = 143

SAVE = getattr(signal, "SIGUSR1", None)
"""Asks for a checkpoint, where the system has this signal."""


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM, after the step was finished and saved. No Exception: nothing on the way may swallow it."""


class Requests:
    """What was asked of a run so far. The run answers after an optimizer step, never amid one.

    Attributes:
        stop: save and end, with `exit_code`.
        save: save and go on.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.save = threading.Event()
        self.exit_code = EXIT_INTERRUPTED
        self._process: int | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, Ctrl-C and SIGTERM stop after the step, SIGUSR1 saves; a second Ctrl-C stops at once."""
        if threading.current_thread() is not threading.main_thread():  # signals belong to the main thread
            yield
            return
        before = {number: signal.getsignal(number) for number in _signals()}
        self._process = os.getpid()
        self.listen()
        try:
            yield
        finally:
            self._process = None
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def listen(self) -> None:
        """Take the signals back: Lightning puts its own handler of SIGTERM, which ends without saving, over ours."""
        if self._process is not None:
            for number in _signals():
                signal.signal(number, self._handle)

    def agree(self, trainer: Trainer) -> tuple[bool, bool]:
        """Whether to stop, and whether to save: what was asked of any process of the run, the same answer in all.

        To be called by all of them after the same step. Where there are several, this is one small reduction.
        """
        save = self.save.is_set()
        if save:
            self.save.clear()
        if trainer.world_size == 1:
            return self.stop.is_set(), save
        asked = torch.tensor([self.exit_code if self.stop.is_set() else 0, int(save)])
        code, saves = trainer.strategy.reduce(asked.to(trainer.strategy.root_device), reduce_op="max").tolist()
        if code:
            self.exit_code = code
            self.stop.set()
        return bool(code), bool(saves)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a worker of the data, forked from the run; the run itself answers
            return
        if number == SAVE:
            self.save.set()
            _say("saving after this step")
        elif not self.stop.is_set():
            self.exit_code = EXIT_TERMINATED if number == signal.SIGTERM else EXIT_INTERRUPTED
            self.stop.set()
            _say("\nstopping after this step; Ctrl-C again stops at once, without saving")
        elif number == signal.SIGINT:
            raise KeyboardInterrupt


def _signals() -> list[int]:
    return [number for number in (signal.SIGINT, signal.SIGTERM, SAVE) if number is not None]


def _say(text: str) -> None:
    with suppress(OSError):  # nobody listens
        os.write(2, f"{text}\n".encode())  # unbuffered: a handler may interrupt a write to sys.stderr
