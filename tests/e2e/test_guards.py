"""What keeps a run whole, in real processes: signals, a folder that is taken, kills."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from support.processes import logged, wait_until

ENDLESS = [
    "train",
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


def steps() -> int:
    """How many steps the run has logged."""
    return logged(RUN)


def saved() -> int:
    return torch.load(RUN / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]


# --- signals -------------------------------------------------------------------------------------------------------


def assert_it_stops(run, number, code):
    run.wait_for_steps(RUN, 2)
    run.send_signal(number)
    assert run.wait() == code, run.err
    assert "Traceback" not in run.err
    assert "sgm train --resume runs/a" in run.err
    assert saved() == steps() >= 2  # no step was lost, none was repeated
    assert json.loads((RUN / "run.json").read_text())["state"] == "interrupted"


@pytest.mark.essential
def test_sigterm_finishes_the_step_saves_and_ends_with_143(sgm_started):
    assert_it_stops(sgm_started(*ENDLESS), signal.SIGTERM, 143)


def test_sigint_finishes_the_step_saves_and_ends_with_130(sgm_forked):
    assert_it_stops(sgm_forked(*ENDLESS), signal.SIGINT, 130)


def test_sigterm_before_the_first_step_ends_with_143_too(sgm_forked, make_distribution):
    """The data wait for the signal, so that no step can have been taken."""
    make_distribution(
        "sgm-waits", {"sgm.datamodules": {"waits": "waits:Waits"}},
        {"waits.py": """
            import time
            from pathlib import Path
            from sgm_plugins.datamodules.digits import Digits

            class Waits(Digits):
                def train_dataloader(self):
                    Path("here").touch()
                    while not Path("sent").exists():
                        time.sleep(0.005)
                    return super().train_dataloader()
        """},
    )  # fmt: skip
    run = sgm_forked(*ENDLESS, "data.use=waits")
    run.wait_for(Path("here").exists)
    run.send_signal(signal.SIGTERM)
    Path("sent").touch()
    assert run.wait() == 143, run.err
    assert "Traceback" not in run.err
    assert steps() <= 1  # the step that was under way


def test_sigusr1_saves_and_goes_on(sgm_forked):
    run = sgm_forked(*ENDLESS)
    run.wait_for_steps(RUN, 2)
    assert not (RUN / "checkpoints").exists()
    run.send_signal(signal.SIGUSR1)
    run.wait_for((RUN / "checkpoints" / "last.ckpt").exists)
    first = saved()
    run.wait_for_steps(RUN, first + 2)  # it went on
    run.send_signal(signal.SIGUSR1)
    run.wait_for(lambda: saved() > first)
    run.send_signal(signal.SIGTERM)
    assert run.wait() == 143
    kept = [int(path.stem.removeprefix("step-")) for path in (RUN / "checkpoints").glob("step-*.ckpt")]
    assert len(kept) == 3
    assert max(kept) == saved()


# --- one run in a folder -------------------------------------------------------------------------------------------


@pytest.mark.essential
def test_a_second_run_in_the_folder_is_refused_and_the_first_goes_on(sgm_forked, sgm_started):
    first = sgm_forked(*ENDLESS, "checkpoint.every_n_steps=1")
    first.wait_for((RUN / "checkpoints" / "last.ckpt").exists)
    second = sgm_started("train", "--resume", str(RUN))
    assert second.wait() == 1
    assert second.err.startswith(f"runs/a: in use by process {first.pid} on this machine")
    assert "Traceback" not in second.err
    first.wait_for_steps(RUN, steps() + 1)
    first.send_signal(signal.SIGTERM)
    assert first.wait() == 143, first.err
    assert not (RUN / ".running.json").exists()


def test_of_two_runs_that_start_at_once_one_gets_the_folder(sgm_forked):
    runs = [sgm_forked(*ENDLESS), sgm_forked(*ENDLESS)]
    wait_until(lambda: any(run.returncode is not None for run in runs))
    [loser] = [run for run in runs if run.returncode is not None]
    [winner] = [run for run in runs if run.returncode is None]
    assert "runs/a" in loser.err
    assert loser.returncode == 1
    winner.wait_for_steps(RUN, 2)


@pytest.mark.essential
def test_after_a_kill_9_the_folder_is_free_again(sgm_forked, sgm_started):
    first = sgm_started(*ENDLESS, "checkpoint.every_n_steps=1")
    first.wait_for((RUN / "checkpoints" / "last.ckpt").exists)
    first.kill()
    assert first.returncode == -signal.SIGKILL
    assert (RUN / ".running.json").exists()
    step = saved()
    second = sgm_forked("train", "--resume", str(RUN), f"trainer.max_steps={step + 1}")
    assert second.wait() == 0, second.err
    assert saved() == step + 1
    assert not list(RUN.glob(".running*"))
