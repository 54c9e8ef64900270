"""A machine that cannot read or write for a moment costs a run nothing: each system call of a resume fails once."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import count, cycle
from pathlib import Path

import pytest
from support.failing_calls import ERRORS, tracing
from support.processes import Forked, wait_until

TINY = [
    "digits", "model.network.channel_mult=[1]", "model.network.num_res_blocks=1", "model.sampler.num_steps=1",
    "data.batch_size=4", "trainer.accelerator=cpu", "trainer.callbacks=[]", "trainer.limit_val_batches=0",
    "trainer.enable_progress_bar=false", "trainer.log_every_n_steps=1", "checkpoint={every_n_steps: 1, keep_last: 9}",
    "report.write=false",
]  # fmt: skip

STOPPED = """
import ctypes, os, signal, sys
from sgm_core.cli.app import main

ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)  # anybody may trace this process
os.kill(os.getpid(), signal.SIGSTOP)
sys.exit(main())
"""

EACH = 30 if os.environ.get("SGM_SWEEP") else 1
"""How many calls of each name fail, spread over the resume: more in `make fuzz`."""


def spread(calls: Counter[str]) -> Iterator[tuple[str, int, str]]:
    """Which call, which of its name, and the error, in turn."""
    errors = cycle(ERRORS)
    for call, times in calls.items():
        for number in range(1, times + 1, max(1, times // EACH)):
            yield call, number, next(errors)


class Place:
    """A run of two steps, and copies of it that are resumed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.whole, self.work, self.numbers = folder, folder / "whole", folder / "work", count()
        trained = self.start("train", *TINY, "trainer.max_steps=2", "--runs", str(folder), "--name", "whole")
        assert trained.wait() == 0, trained.err
        self.copy()
        self.paths = [self.work, *self.work.rglob("*")]

    def start(self, *arguments: str, code: str | None = None) -> Forked:
        output = self.folder / f"command-{next(self.numbers)}"
        output.mkdir()
        return Forked(arguments, output, *([code] if code else []))

    def copy(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.whole, self.work)
        last = self.work / "checkpoints" / "last.ckpt"
        last.unlink()
        os.link(self.work / "checkpoints" / "step-00000002.ckpt", last)  # as a run writes it

    def resume(self, *failures: tuple[str, int, str]) -> tuple[Forked, Counter[str]]:
        running = self.start("train", "--resume", str(self.work), "trainer.max_steps=3", code=STOPPED)
        wait_until(lambda: "\nState:\tT" in Path(f"/proc/{running.pid}/status").read_text())
        with tracing(running.pid, self.paths, failures) as calls:
            running.wait()
        return running, calls

    def losses(self) -> list[tuple[int, float]]:
        lines = map(json.loads, (self.work / "metrics.jsonl").read_text().splitlines())
        return [(line["step"], line["loss"]) for line in lines if "loss" in line]

    def kept(self, run: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (run / "checkpoints").iterdir() if "00000003" not in path.name}


@pytest.mark.process
@pytest.mark.hypothesis
@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("strace"), reason="strace")
def test_whatever_call_of_a_resume_fails_once_nothing_is_lost_or_set_aside(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    place = Place(tmp_path)
    kept = place.kept(place.whole)
    del kept["last.ckpt"]
    done, calls = place.resume()
    if not calls:
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.err
    wanted = place.losses()
    assert len(wanted) == 3
    codes = Counter[int | None]()
    for failure in spread(calls):
        place.copy()
        done, _ = place.resume(failure)
        codes[done.returncode] += 1
        there = place.kept(place.work)
        assert {name: there.get(name) for name in kept} == kept, (failure, done.err)
        assert not [path for path in place.work.rglob("*") if path.name.endswith((".broken", ".tmp"))], failure
        assert "A bug" not in done.err, (failure, done.err)
        assert "Traceback" not in done.err, (failure, done.err)
        if done.returncode:  # then the machine is well again
            assert done.returncode == 1, (failure, done.err)
            done, _ = place.resume()
        assert done.returncode == 0, (failure, done.err)
        assert place.losses() == wanted, failure
    assert codes[0] > 0
    assert codes[1] > 0
