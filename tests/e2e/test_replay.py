"""`sgm replay`: a step that a run was stopped at comes out as it did, and where it goes wrong is found."""

import os
import pickle
import warnings
from pathlib import Path

import pytest
import torch

from sgm_core.cli.app import main

CODE = '''
import lightning as L
import torch
from torch.utils.data import DataLoader

import sgm_core as sgm
from sgm_core.roles import Loss


@sgm.register("datamodules", "poisoned")
class Poisoned(L.LightningDataModule):
    """Images in a fixed order, of which one has a value that is none."""

    def train_dataloader(self):
        images = torch.linspace(-1, 1, 64 * 64).view(64, 1, 8, 8).clone()
        images[29, 0, 3, 4] = float("nan")
        return DataLoader([{"image": image, "cls": i % 10} for i, image in enumerate(images)], batch_size=8)


class Squares(Loss):
    def squares(self, denoise, x, cond):
        noise = torch.randn_like(x)
        return (denoise(x + noise, x.new_ones(len(x)), cond) - x).square().flatten(1).mean(1)


@sgm.register("losses", "drawn")
class Drawn(Squares):
    """Now and then its gradient is none, which only a draw decides."""

    def forward(self, denoise, x, cond, generator=None):
        losses = self.squares(denoise, x, cond)
        return losses + (losses * 0).sqrt() if torch.rand(()) > 0.8 else losses


@sgm.register("losses", "counted")
class Counted(Squares):
    """It depends on something that no checkpoint has."""

    calls = 0

    def forward(self, denoise, x, cond, generator=None):
        self.calls += 1
        return self.squares(denoise, x, cond) * (float("inf") if self.calls == 3 else 1.0)
'''
FAST = [
    "model.network.channel_mult=[1]", "model.network.dropout=0.3", "data.batch_size=8", "trainer.max_steps=40",
    "trainer.limit_val_batches=0", "trainer.accelerator=cpu", "trainer.enable_progress_bar=false",
    "trainer.callbacks=[]", "seed=3", "--code", "mine.py",
]  # fmt: skip


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch, register):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    Path("mine.py").write_text(CODE)  # what it registers is forgotten with `register`


@pytest.fixture
def stopped(capsys):
    """Trains until the guard stops the run; gives the step."""

    def train(*overrides: str) -> int:
        assert main(["train", "digits", *FAST, *overrides, "--name", "a"]) == 1
        assert "Stopped before the weights changed" in capsys.readouterr().err
        [kept] = Path("runs/a/nonfinite").iterdir()
        step = int(kept.stem.removeprefix("step-"))
        last = Path("runs/a/checkpoints/last.ckpt")
        if last.exists():  # with checkpoint.every_n_steps=1: the step itself was not taken
            assert torch.load(last, weights_only=True)["global_step"] == step
        return step

    return train


@pytest.fixture
def replayed(capsys):
    """Runs `sgm replay runs/a`, after something else was drawn: exit code, output, messages."""

    def run(*options: str) -> tuple[int, str, str]:
        torch.rand(7)
        code = main(["replay", "runs/a", "--code", "mine.py", *options])
        return code, *capsys.readouterr()

    return run


def test_a_poisoned_image_is_found(stopped, replayed):
    assert stopped("data=poisoned", "checkpoint.every_n_steps=1") == 3
    code, out, err = replayed()
    assert code == 0, err
    assert out.splitlines()[0] == "runs/a/nonfinite/step-00000003.pt"
    assert "step 3: 1 batch, 32-true, on cpu" in out
    assert "stopped because the loss is nan" in out
    assert "not finite from the start: image of batch 0, sample 5" in out
    assert "loss: nan; the same bit for bit" in out
    assert out.splitlines()[-1] == "reproduced"


def test_weights_that_a_step_has_blown_up_give_the_same_again(stopped, replayed):
    """An inf that arises: finite weights, huge ones."""
    step = stopped("model.optimizer={use: sgd, lr: 1.0e+30}")
    code, out, err = replayed("--step", str(step))
    assert code == 0, err
    assert "from the start" not in out
    assert "forward: first not finite in the output of loss_fn (StandardLoss), batch 0" in out
    assert "loss: inf; " in out
    assert "the same bit for bit" in out


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_what_a_draw_decides_is_drawn_again_in_the_precision_of_the_run(stopped, replayed, precision):
    """Two batches a step, dropout, noise; the losses are finite, and must be those of the run to the last bit."""
    step = stopped(
        "model.loss_fn=drawn", f"trainer.precision={precision}", "trainer.accumulate_grad_batches=2",
        "checkpoint.every_n_steps=1",
    )  # fmt: skip
    assert step > 0
    code, out, err = replayed()
    assert code == 0, err
    assert f"step {step}: 2 batches, {precision}, on cpu" in out
    assert "forward: all outputs are finite" in out
    assert "the same bit for bit" in out
    # the backward pass comes to the output first
    assert ", first model.diffusion_model.out.2." in out
    losses = torch.load(f"runs/a/nonfinite/step-{step:08d}.pt", weights_only=True)["losses"]
    assert len(losses) == 2
    assert all(loss.isfinite() for loss in losses)


def test_another_seed_would_not_give_the_same(stopped, replayed):
    """That the test above can fail."""
    step = stopped("model.loss_fn=drawn")
    file = Path(f"runs/a/nonfinite/step-{step:08d}.pt")
    kept = torch.load(file, weights_only=True)
    assert kept["sgm_seed"] == 3
    torch.save({**kept, "sgm_seed": 4}, file)
    _, out, _ = replayed()
    assert "the same bit for bit" not in out
    assert f"it was {kept['losses'][0].item():.9g}" in out


def test_what_does_not_come_again_is_said_with_exit_code_1(stopped, replayed):
    assert stopped("model.loss_fn=counted") == 2
    code, out, err = replayed()
    assert code == 1
    assert err.splitlines()[-1].startswith("not reproduced: all is finite")
    assert "it was inf" in out
    assert "Traceback" not in err


def test_what_can_not_be_replayed_is_one_line(stopped, replayed, tmp_path):
    Path("runs/a").mkdir(parents=True)
    assert replayed()[0] == 1
    assert replayed()[2].startswith("runs/a: nothing to replay")
    Path("runs/a").rmdir()
    stopped("data=poisoned")
    assert replayed("--step", "7")[2] == "--step 7: no such step was stopped; there is 3\n"

    class Runs:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    kept = Path("runs/a/nonfinite/step-00000003.pt")
    whole = kept.read_bytes()
    for content in (pickle.dumps(Runs()), b"", whole[: len(whole) // 2]):
        kept.write_bytes(content)
        code, _, err = replayed()
        assert code == 1
        assert err.startswith(f"{kept}: cannot be read: ")
        assert "Traceback" not in err
    assert not (tmp_path / "ran").exists()
    torch.save({"step": 3, "batches": [], "weights": {}}, kept)
    assert "it has no losses, sgm. It is of an older version" in replayed()[2]
    assert main(["replay", "https://example.com/a", "--code", "mine.py"]) == 1
