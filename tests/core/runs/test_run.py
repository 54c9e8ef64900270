"""A run by itself: its trainer, what it does when training fails, and where it ends."""

import json
import socket
import warnings

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch import trainer as trainer_of_lightning
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy

import sgm_core as sgm
from sgm_core.checkpoints.files import read_step, save_weights
from sgm_core.checkpoints.manifest import to_load
from sgm_core.errors import SgmError
from sgm_core.roles import Loss
from sgm_core.runs.run import Run, quiet_libraries, resume_run, start_run
from sgm_core.runs.signals import Requests

FAST = [
    "model.network.channel_mult=[1]",
    "trainer.limit_val_batches=1",
    "trainer.log_every_n_steps=1",
    "trainer.enable_progress_bar=false",
    "trainer.callbacks=[]",
    "data.batch_size=8",
]


class Fails(Loss):
    """Trains for some steps, and then fails, as a GPU may."""

    def __init__(self, after: int = 2) -> None:
        super().__init__()
        self.after = after
        self.calls = 0

    def forward(self, denoise, x, cond, generator=None):
        self.calls += self.training  # not in validation
        if self.calls > self.after:
            raise RuntimeError("NCCL error: unhandled system error")
        return denoise(x, x.new_ones(len(x)), cond).square().flatten(1).mean(1)


def new_run(folder, *overrides: str) -> Run:
    return start_run(sgm.load_config("digits", overrides=[*FAST, *overrides]), folder, "a")


def failing_run(folder, register, after: int = 2) -> Run:
    register("losses", "fails")(Fails)
    return new_run(folder, f"model.loss_fn={{use: fails, after: {after}}}", "checkpoint.every_n_steps=2")


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("devices", ["1", "auto", "null"])
@pytest.mark.parametrize("accelerator", ["cpu", "auto"])
def test_devices_are_a_number_or_auto_and_the_cpu_is_an_accelerator(devices, accelerator, tmp_path, monkeypatch):
    """B38: the reference forced a GPU, and `devices` had to be a text like "0,"."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    overrides = [f"trainer.accelerator={accelerator}", *([] if devices == "null" else [f"trainer.devices={devices}"])]
    trainer = new_run(tmp_path, *overrides).trainer(Requests())
    assert isinstance(trainer.accelerator, CPUAccelerator)
    assert isinstance(trainer.strategy, SingleDeviceStrategy)
    assert trainer.num_devices == 1


def test_a_run_ends_after_training_with_a_loss_on_data_that_it_did_not_train_on(tmp_path):
    """B11: the reference had no validation, and ended each run in a test loop that its engine did not have."""
    every_two_steps = ["trainer.val_check_interval=2", "trainer.check_val_every_n_epoch=1"]
    run = new_run(tmp_path, "trainer.max_steps=4", *every_two_steps, "trainer.accelerator=cpu")
    assert run.train() == 0
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert {row["step"] for row in rows if "val_loss" in row} == {1, 3}
    assert (run.folder / "model.safetensors").is_file()


def test_a_failure_is_raised_as_it_is_and_nobody_is_called(tmp_path, register, monkeypatch):
    """B39: on any RuntimeError the reference asked a cloud's metadata server, without a time limit."""
    asked = []
    monkeypatch.setenv("MULTINODE_HACKS", "True")
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: asked.append(address))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address, **_: asked.append(address))
    with pytest.raises(RuntimeError, match=r"^NCCL error: unhandled system error$"):
        failing_run(tmp_path, register).train()
    assert asked == []


def test_a_failure_leaves_the_last_good_checkpoint_as_it_was(tmp_path, register):
    """B40: the reference saved over it from its exception hook, with whatever the weights were by then."""
    run = failing_run(tmp_path, register, after=3)
    with pytest.raises(RuntimeError, match="NCCL"):
        run.train()
    last = to_load(run.folder)
    assert last.name == "last.ckpt"
    assert read_step(last) == 2
    assert last.read_bytes() == (last.parent / "step-00000002.ckpt").read_bytes()
    assert not (run.folder / "model.safetensors").exists()


@pytest.mark.parametrize("config", ["digits", "autoencoder_digits"])
def test_a_run_goes_on_without_the_file_that_it_started_from(tmp_path, config):
    """Its checkpoint has all weights: those of the file are neither needed nor read."""
    short = ["trainer.limit_val_batches=0", "trainer.callbacks=[]", "trainer.enable_progress_bar=false"]
    start = tmp_path / "start.safetensors"
    save_weights(sgm.build_engine(sgm.load_config(config)), start, None)
    given = [*short, "data.batch_size=8", "trainer.accelerator=cpu", "trainer.max_steps=1", f"model.init_from={start}"]
    run = start_run(sgm.load_config(config, overrides=given), tmp_path, "a")
    assert run.train() == 0
    start.unlink()
    assert resume_run(run.folder, ["trainer.max_steps=2"]).train() == 0
    assert read_step(run.folder / "checkpoints" / "last.ckpt") == 2
    with pytest.raises(ValueError, match="no such checkpoint"):
        start_run(sgm.load_config(config, overrides=given), tmp_path, "b").train()


@pytest.mark.parametrize(
    ("key", "value"),
    [("loops", 5), ("callbacks", [1]), ("optimizer_states", 5), ("lr_schedulers", None), ("loops", {"fit_loop": 3})],
)
def test_what_a_checkpoint_holds_beside_its_weights_is_refused_where_no_run_wrote_it(tmp_path, key, value):
    run = new_run(tmp_path, "trainer.max_steps=1")
    assert run.train() == 0
    (path,) = run.folder.glob("checkpoints/step-*.ckpt")
    saved = torch.load(path, weights_only=True)
    for old in path.parent.iterdir():
        old.unlink()
    torch.save({**saved, key: value}, path)
    with pytest.raises(SgmError, match=r"step-\d+\.ckpt: not a checkpoint to resume from: what it holds beside"):
        resume_run(run.folder, ["trainer.max_steps=5"]).train()


def test_a_run_without_a_step_keeps_its_folder(tmp_path):
    run = new_run(tmp_path, "trainer.max_steps=0")
    assert run.train() == 0
    assert not run.begun
    assert (run.folder / "config.yaml").is_file()
    assert (run.folder / "model.safetensors").is_file()


def test_a_run_that_fails_after_it_saved_keeps_its_folder(tmp_path, monkeypatch):
    """Also where another process trained, and this one never saw a step."""
    run = new_run(tmp_path, "trainer.max_steps=1")
    monkeypatch.setattr(Run, "begin", lambda *args: None)
    monkeypatch.setattr(Run, "export", lambda *args: (_ for _ in ()).throw(SgmError("the disk is full")))
    with pytest.raises(SgmError, match="the disk is full"):
        run.train()
    assert not run.begun
    assert (run.folder / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches: expected an integer from 1"),
        ("trainer.accumulate_grad_batches=-5", "trainer.accumulate_grad_batches: expected an integer from 1"),
        ("trainer.num_nodes=10000000000000", "trainer.num_nodes: expected an integer from -1 to 2147483647"),
        ("data.num_workers=100000", "data.num_workers: 100000 processes are more than this machine can run"),
        ("trainer.devices=100000", "trainer.devices: 100000 processes are more than this machine can run"),
        ("trainer.strategy=fsdp", "trainer.strategy: fsdp is FSDP of the first version.*use fsdp2"),
        ("trainer.gradient_clip_val=.nan", "trainer.gradient_clip_val: expected a finite number, got nan"),
        ("seed=4294967296", "seed: expected an integer"),
    ],
)
def test_values_that_lightning_takes_and_fails_at_later_are_found_before(tmp_path, override, message):
    with pytest.raises(SgmError, match=message):
        new_run(tmp_path, override).train()
    assert not list(tmp_path.iterdir())


def test_the_largest_seed_trains_and_resumes(tmp_path):
    arguments = ["trainer.max_steps=1", "trainer.accelerator=cpu", f"seed={2**32 - 1}", "trainer.callbacks=[]"]
    run = new_run(tmp_path, *arguments)
    assert run.train() == 0
    assert resume_run(run.folder, ["trainer.max_steps=2"]).train() == 0


def test_a_refusal_of_lightning_is_one_message(tmp_path, monkeypatch):
    run = new_run(tmp_path, "trainer.accelerator=cpu")

    def refuse(*args, **kwargs):
        raise MisconfigurationException("choose another")

    monkeypatch.setattr(Trainer, "fit", refuse)
    with pytest.raises(SgmError, match=r"trainer: choose another"):
        run.train()


def test_warnings_are_one_printable_line_also_where_lightning_gives_them(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", None)
    quiet_libraries()
    assert warnings.formatwarning("a\x1b[2Jb", UserWarning, trainer_of_lightning.__file__, 1) == "warning: a\\x1b[2Jb\n"
