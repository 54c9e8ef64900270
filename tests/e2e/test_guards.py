"""What keeps a run whole, in real processes: signals, a folder that is taken, kills."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

COMMAND = [sys.executable, "-c", "import sys; from sgm_core.cli.app import main; sys.exit(main())", "train"]
ENDLESS = [
    "digits",
    "model.network.channel_mult=[1]",
    "trainer.max_steps=100000",
    "trainer.limit_val_batches=0",
    "trainer.log_every_n_steps=1",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "trainer.callbacks=[]",
    "data.batch_size=8",
    "checkpoint.every_n_steps=100000",
    "--name",
    "a",
]
RUN = Path("runs/a")

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals to a child process")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def start():
    """Starts `sgm train`; what is left of it is killed in the end."""
    children: list[subprocess.Popen[str]] = []

    def run(*arguments: str) -> subprocess.Popen[str]:
        children.append(subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, text=True))
        return children[-1]

    yield run
    for child in children:
        child.kill()
        child.communicate()


def wait_for(what: Callable[[], object], child: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not what():
        if child.poll() is not None:
            pytest.fail(f"the run ended with {child.returncode}: {child.stderr.read()}")
        assert time.monotonic() < deadline
        time.sleep(0.05)


def steps() -> int:
    """How many steps the run has logged."""
    file = RUN / "metrics.jsonl"
    whole = file.read_text().split("\n")[:-1] if file.exists() else []  # the last line may be half written
    return sum("loss" in json.loads(line) for line in whole)


def saved() -> int:
    return torch.load(RUN / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]


# --- signals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_stop_finishes_the_step_saves_and_ends_with_its_code(start, number, code):
    child = start(*ENDLESS)
    wait_for(lambda: steps() >= 2, child)
    child.send_signal(number)
    _, err = child.communicate(timeout=60)
    assert child.returncode == code, err
    assert "Traceback" not in err
    assert "sgm train --resume runs/a" in err
    assert saved() == steps() >= 2  # no step was lost, none was repeated
    assert json.loads((RUN / "run.json").read_text())["state"] == "interrupted"


def test_sigterm_before_the_first_step_ends_with_143_too(start):
    child = start(*ENDLESS)
    wait_for(lambda: RUN.is_dir(), child)
    time.sleep(0.3)  # the handlers are in place once the model is built; before, there is nothing to save
    child.send_signal(signal.SIGTERM)
    _, err = child.communicate(timeout=60)
    assert child.returncode in (143, -signal.SIGTERM), err
    assert "Traceback" not in err


def test_sigusr1_saves_and_goes_on(start):
    child = start(*ENDLESS)
    wait_for(lambda: steps() >= 2, child)
    assert not (RUN / "checkpoints").exists()
    child.send_signal(signal.SIGUSR1)
    wait_for((RUN / "checkpoints" / "last.ckpt").exists, child)
    first = saved()
    wait_for(lambda: steps() >= first + 2, child)  # it went on
    child.send_signal(signal.SIGUSR1)
    wait_for(lambda: saved() > first, child)
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=60)
    assert child.returncode == 143
    kept = [int(path.stem.removeprefix("step-")) for path in (RUN / "checkpoints").glob("step-*.ckpt")]
    assert len(kept) == 3
    assert max(kept) == saved()


# --- one run in a folder -------------------------------------------------------------------------------------------


def test_a_second_run_in_the_folder_is_refused_and_the_first_goes_on(start):
    first = start(*ENDLESS, "checkpoint.every_n_steps=1")
    wait_for((RUN / "checkpoints" / "last.ckpt").exists, first)
    second = start("--resume", str(RUN))
    _, err = second.communicate(timeout=60)
    assert second.returncode == 1
    assert err.startswith(f"runs/a: in use by process {first.pid} on this machine")
    assert "Traceback" not in err
    before = steps()
    wait_for(lambda: steps() > before, first)
    first.send_signal(signal.SIGTERM)
    _, err = first.communicate(timeout=60)
    assert first.returncode == 143, err
    assert not (RUN / ".running.json").exists()


def test_of_two_runs_that_start_at_once_one_gets_the_folder(start):
    children = [start(*ENDLESS), start(*ENDLESS)]
    deadline = time.monotonic() + 120
    while all(child.poll() is None for child in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    [loser] = [child for child in children if child.poll() is not None]
    [winner] = [child for child in children if child.poll() is None]
    assert "runs/a" in loser.stderr.read()
    assert loser.returncode == 1
    wait_for(lambda: steps() >= 2, winner)


def test_after_a_kill_9_the_folder_is_free_again(start):
    first = start(*ENDLESS, "checkpoint.every_n_steps=1")
    wait_for((RUN / "checkpoints" / "last.ckpt").exists, first)
    first.kill()
    first.wait()
    assert (RUN / ".running.json").exists()
    step = saved()
    second = start("--resume", str(RUN), f"trainer.max_steps={step + 1}")
    _, err = second.communicate(timeout=120)
    assert second.returncode == 0, err
    assert saved() == step + 1
    assert not list(RUN.glob(".running*"))
