"""A run that has a folder can be taken up again, whichever change of a file was its last."""

import json
import os
import signal
from pathlib import Path

import pytest
from support.processes import Forked

RUN = """
extends: digits
seed: 3
model: {network: {channel_mult: [1], num_res_blocks: 1}, sampler: {num_steps: 2}}
data: {use: digits, batch_size: 16}
trainer: {max_steps: 4, limit_val_batches: 0, accelerator: cpu, enable_progress_bar: false, log_every_n_steps: 1}
checkpoint: {every_n_steps: 2, keep_last: 3}
"""

COMMAND = ["train", "run.yaml", "--name", "a"]

COUNTING = """
import os, sys

changes = {"os.rename", "os.remove", "os.mkdir", "os.link", "os.truncate", "os.chmod", "os.rmdir"}
seen = 0

def count(event, given):
    global seen
    writes = event == "open" and isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if (event in changes or writes) and "runs" in str(given):
        seen += 1
        if seen == int(os.environ["AT"]):
            os.kill(os.getpid(), int(os.environ["SIGNAL"]))

sys.addaudithook(count)
from sgm_core.cli.app import main

code = main()
print(seen)
sys.exit(code)
"""


class Place:
    """A folder with a config, in which runs are killed."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.commands = folder, 0
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        self.setenv = monkeypatch.setenv
        (folder / "run.yaml").write_text(RUN)

    def sgm(self, *arguments: str, at: int = 0, number: int = signal.SIGKILL) -> Forked:
        """A command that ended; a signal reached it at its n-th change of a file."""
        self.setenv("AT", str(at))
        self.setenv("SIGNAL", str(int(number)))
        self.commands += 1
        output = self.folder / f"command-{self.commands}"
        output.mkdir()
        running = Forked(arguments, output, COUNTING)
        running.wait()
        return running

    def losses(self, runs: str) -> dict[int, float]:
        lines = map(json.loads, (self.folder / runs / "a" / "metrics.jsonl").read_text().splitlines())
        return {line["step"]: line["loss"] for line in lines if "loss" in line}


@pytest.fixture
def place(tmp_path, monkeypatch) -> Place:
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path, monkeypatch)


SWEEP = bool(os.environ.get("SGM_SWEEP"))
"""Every point, which takes a quarter of an hour: in `make fuzz`."""


@pytest.mark.process
@pytest.mark.hypothesis
@pytest.mark.parametrize(("number", "points"), [(signal.SIGKILL, 12), (signal.SIGTERM, 3)])
def test_a_run_can_go_on_after_a_signal_at_any_change_of_a_file(place, number, points):
    """Without an interruption the losses are the same, to the last bit."""
    whole = place.sgm(*COMMAND, "--runs", "runs")
    assert whole.returncode == 0, whole.err
    changes, wanted = int(whole.out.split()[-1]), place.losses("runs")
    assert list(wanted) == [0, 1, 2, 3]
    every = 1 if SWEEP else changes // points
    for at in range(1, changes + 1, every):
        runs = f"runs-{at}"
        cut = place.sgm(*COMMAND, "--runs", runs, at=at, number=number)
        assert cut.returncode in (-number, 143, 0), (at, cut.err)
        resumed = place.sgm("train", "--resume", f"{runs}/a")
        if resumed.returncode == 1:
            assert "repeat the command" in resumed.err or "there is no such run" in resumed.err, (at, resumed.err)
            resumed = place.sgm(*COMMAND, "--runs", runs)
        assert resumed.returncode == 0, (at, cut.err, resumed.err)
        assert place.losses(runs) == wanted, at
