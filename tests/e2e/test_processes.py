"""Two processes train what one would: real ones, on the CPU, through the command, by torchrun and by Lightning."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sgm_core.cli.app import main

STEPS = 6
TINY = [
    "digits",
    "model.network.channel_mult=[1]",
    "model.sampler.num_steps=2",
    "model.loss_fn.offset_noise_level=0.1",
    # Adam moves a weight whose gradient is next to zero by the sign of a rounding error
    "model.optimizer={use: sgd, lr: 0.01, momentum: 0.9}",
    "trainer.limit_val_batches=1",
    "trainer.log_every_n_steps=1",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "checkpoint.every_n_steps=2",
]
SIX = [*TINY, f"trainer.max_steps={STEPS}"]
TWO = ["trainer.devices=2", "data.batch_size=32"]
COMMAND = [sys.executable, "-m", "sgm_core.cli", "train"]
TORCHRUN = [
    sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "sgm_core.cli", "train",
]  # fmt: skip

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="gloo, and signals to processes")]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch) -> Iterator[None]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(command: list[str], folder: Path, *, code: int = 0) -> str:
    """What a command says."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == code, done.stderr
    return done.stderr


def rows(run: Path) -> list[dict]:
    file = run / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().split("\n")[:-1]] if file.exists() else []


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in rows(run) if "loss" in row]


def last(run: Path) -> dict:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def furthest(a: dict, b: dict) -> float:
    """The largest difference of two dicts of tensors."""
    assert a.keys() == b.keys()
    return max((a[key].double() - b[key].double()).abs().max().item() for key in a)


def momenta(checkpoint: dict) -> dict:
    [state] = checkpoint["optimizer_states"]
    return {key: entry["momentum_buffer"] for key, entry in state["state"].items()}


# --- losses, averages, files -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """One training, in six ways."""
    folder = tmp_path_factory.mktemp("processes")
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert main(["train", *SIX, "data.batch_size=64", "--name", "one"]) == 0
        assert main(["train", *SIX, "data.batch_size=16", "trainer.accumulate_grad_batches=4", "--name", "four"]) == 0
    finally:
        os.chdir(before)
    clip = "trainer.gradient_clip_val=0.5"
    run([*COMMAND, *SIX, *TWO, "--name", "ddp"], folder)
    run([*COMMAND, *SIX, *TWO, "trainer.strategy=fsdp2", "--name", "fsdp2"], folder)
    run([*TORCHRUN, *SIX, *TWO, clip, "trainer.strategy=fsdp2", "--runs", "elastic"], folder)
    os.chdir(folder)
    try:
        assert main(["train", *SIX, "data.batch_size=64", clip, "--name", "clipped"]) == 0
    finally:
        os.chdir(before)
    [elastic] = (folder / "elastic").iterdir()
    return {path.name: path for path in (folder / "runs").iterdir()} | {"elastic": elastic}


SAME = [("four", "one"), ("ddp", "one"), ("fsdp2", "one"), ("elastic", "clipped")]


@pytest.mark.parametrize(("other", "one"), SAME)
def test_losses_weights_averages_and_momenta_are_those_of_one_process(runs, other, one):
    assert len(losses(runs[one])) == STEPS
    assert losses(runs[other]) == pytest.approx(losses(runs[one]), abs=1e-6)
    a, b = last(runs[other]), last(runs[one])
    assert furthest(a["state_dict"], b["state_dict"]) < 1e-6
    assert furthest(momenta(a), momenta(b)) < 1e-5
    assert a["state_dict"]["model_ema.num_updates"] == STEPS
    averages = [key for key in b["state_dict"] if key.startswith("model_ema.shadow.")]
    assert max((b["state_dict"][key] - b["state_dict"][key[17:]]).abs().max() for key in averages) > 1e-4


def test_the_runs_that_are_to_differ_do(runs):
    assert losses(runs["clipped"]) != pytest.approx(losses(runs["one"]), abs=1e-4)


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "elastic"])
def test_there_is_one_of_everything(runs, name):
    found = {str(path.relative_to(runs[name])) for path in runs[name].rglob("*")}
    expected = {str(path.relative_to(runs["one"])) for path in runs["one"].rglob("*")}
    assert found == expected
    assert len([file for file in found if file.startswith("images/samples-")]) == 4
    assert [row["step"] for row in rows(runs[name])] == list(range(STEPS))
    assert json.loads((runs[name] / "run.json").read_text())["state"] == "finished"
    assert json.loads((runs[name] / "run.json").read_text())["samples"] == STEPS * 64


@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_weights_are_exported_whole_and_can_be_sampled(runs, name, monkeypatch):
    exported, one = (load_file(runs[key] / "model.safetensors") for key in (name, "one"))
    assert furthest(exported, one) < 1e-6
    monkeypatch.chdir(runs[name])
    assert main(["sample", ".", "--cond", "cls=[3,5]", "--out", "drawn"]) == 0
    assert list(Path("drawn").rglob("*.png"))


def test_a_sharded_run_goes_on_in_one_process_and_the_other_way_round(runs, monkeypatch):
    """A checkpoint is the same file whatever wrote it."""
    folder = runs["one"].parent.parent
    monkeypatch.chdir(folder)
    more = ["trainer.max_steps=9", "--allow-change"]
    whole = ["trainer.devices=1", "trainer.strategy=auto", "data.batch_size=64"]
    assert main(["train", "--resume", "runs/fsdp2", *more, *whole]) == 0
    run([*COMMAND, "--resume", "runs/one", *more, *TWO, "trainer.strategy=fsdp2"], folder)
    assert len(losses(runs["one"])) == 9
    assert losses(runs["one"]) == pytest.approx(losses(runs["fsdp2"]), abs=1e-6)
    assert furthest(last(runs["one"])["state_dict"], last(runs["fsdp2"])["state_dict"]) < 1e-6


# --- kills and signals -----------------------------------------------------------------------------------------------


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts a training in two processes, by Lightning; what is left of it is killed in the end."""
    monkeypatch.chdir(tmp_path)
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: str) -> subprocess.Popen[str]:
        with Path("said").open("w") as said:
            started.append(subprocess.Popen([*COMMAND, *arguments], stderr=said, text=True, start_new_session=True))
        return started[-1]

    yield begin
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


ENDLESS = [
    *TINY,
    *TWO,
    "trainer.callbacks=[]",
    "trainer.limit_val_batches=0",
    "trainer.max_steps=100000",
    "--name",
    "a",
]
RUN = Path("runs/a")


def wait_for(what: Callable[[], object], process: subprocess.Popen[str], pause: float = 0.05) -> None:
    deadline = time.monotonic() + 120
    while not what():
        if process.poll() is not None:
            pytest.fail(f"the run ended with {process.returncode}: {Path('said').read_text()}")
        assert time.monotonic() < deadline
        time.sleep(pause)


def second(process: subprocess.Popen[str]) -> int:
    """The process of rank 1."""
    found = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(process.pid)], capture_output=True, text=True)
    [child] = [int(line.split()[0]) for line in found.stdout.splitlines() if "sgm_core.cli" in line]
    return child


def test_two_processes_killed_and_resumed_are_those_that_were_not_to_the_last_bit(start):
    several = [*TINY, *TWO, "trainer.max_steps=40", "trainer.callbacks=[]", "model.network.dropout=0.1"]
    assert start(*several, "--name", "whole").wait(timeout=120) == 0
    process = start(*several, "--name", "a")
    wait_for(lambda: len(losses(RUN)) > 10, process, 0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert 10 < len(losses(RUN)) < 40
    assert start("--resume", str(RUN)).wait(timeout=120) == 0
    assert rows(RUN) == rows(Path("runs/whole"))
    a, b = last(RUN), last(Path("runs/whole"))
    assert furthest(a["state_dict"], b["state_dict"]) == furthest(momenta(a), momenta(b)) == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_one_process_is_answered_by_all_after_the_same_step(start, number, code):
    process = start(*ENDLESS, "checkpoint.every_n_steps=100000")
    wait_for(lambda: len(losses(RUN)) > 2, process)
    other = second(process)
    os.kill(other, signal.SIGUSR1)
    wait_for((RUN / "checkpoints" / "last.ckpt").exists, process)
    first = last(RUN)["global_step"]
    wait_for(lambda: len(losses(RUN)) > first + 2, process)  # it goes on
    os.kill(other, number)
    assert process.wait(timeout=60) == code, Path("said").read_text()
    assert "Traceback" not in Path("said").read_text()
    assert last(RUN)["global_step"] == len(losses(RUN)) > first
    assert not (RUN / ".running.json").exists()
    wait_for_end(other)


def wait_for_end(pid: int) -> None:
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists() or not Path("/proc").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


SPOIL = """
import sgm_core as sgm
from lightning.pytorch import Callback

@sgm.register("callbacks", "spoil")
class Spoil(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_rank == 1 and trainer.global_step == 3:
            batch["image"].fill_(float("nan"))
"""


def test_a_loss_that_is_not_finite_in_one_process_ends_all_before_the_step(start):
    Path("spoil.py").write_text(SPOIL)
    process = start("--code", "spoil.py", *ENDLESS, "trainer.callbacks=[{use: spoil}]")
    assert process.wait(timeout=120) == 1
    said = Path("said").read_text()
    assert "step 3: the loss is nan" in said
    assert "step 3: the loss is not finite on another process" in said
    assert "Traceback" not in said
    assert sorted(path.name for path in (RUN / "nonfinite").iterdir()) == [
        "step-00000003-rank-1.pt",
        "step-00000003.pt",
    ]
    assert last(RUN)["global_step"] == 2


def test_what_can_not_be_sharded_is_refused_with_a_way_out(tmp_path, one_after_another):
    short = ["trainer.accelerator=cpu", "trainer.max_steps=1"]
    (code, said), (other_code, other) = one_after_another(
        [
            ["train", "autoencoder_digits", *short, "trainer.strategy=fsdp2"],
            ["train", "digits", *short, "trainer.strategy=fsdp"],
        ],
        tmp_path,
    )
    assert (code, other_code) == (1, 1)
    assert "AutoencoderEngine does not say what of it fsdp2 may shard; use ddp" in said
    assert "use fsdp2" in other


def test_a_dry_run_of_a_sharded_model_counts_the_share_of_a_process(tmp_path):
    done = subprocess.run(
        [*COMMAND, *TINY, *TWO, "trainer.strategy=fsdp2", "--dry-run"],
        cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    planned = re.search(r"in all, without activations +\S+ k +0 +([\d.]+) MB", done.stdout)
    share = re.search(
        r"weights ([\d.]+) kB, gradients ([\d.]+) kB, shadows ([\d.]+) kB, moments ([\d.]+) kB", done.stdout
    )
    assert planned is not None
    assert share is not None
    assert sum(map(float, share.groups())) == pytest.approx(float(planned[1]) * 1000 / 2, rel=0.02)
    assert not list(tmp_path.iterdir())
