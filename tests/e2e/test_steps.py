"""A step is a step: of the optimizer, the average, the schedule, the checkpoints and the draws, however many batches it
takes, and whatever cuts an accumulation short."""

import json
import warnings
from pathlib import Path

import pytest
import torch

from sgm_core.cli.app import main
from sgm_core.randomness.samples import SampleDraws
from sgm_core.training import base as averaged

SAMPLES, BATCHES = 4, 5  # of a batch, of an epoch
SETTINGS = [
    "digits",
    "model.network={use: unet, in_channels: 1, out_channels: 1, model_channels: 32, num_res_blocks: 1, "
    "channel_mult: [1], attention_resolutions: [], num_classes: sequential, adm_in_channels: 128}",
    "model.lr_schedule={use: linear, total_steps: 100, start_factor: 1.0}",
    f"data={{use: digits, batch_size: {SAMPLES}, train_fraction: {SAMPLES * BATCHES / 1797}}}",
    "trainer.limit_val_batches=0",
    "trainer.log_every_n_steps=1",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "trainer.callbacks=[]",
    "checkpoint={every_n_steps: 1, keep_last: 100}",
    "seed=7",
]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # the commands change it


@pytest.fixture
def drawn(monkeypatch) -> list[tuple[int, int]]:
    """Of each batch, the step and the place of its first sample in that step."""
    found: list[tuple[int, int]] = []

    def record(key, samples, first, part):
        assert key[0] == 7
        assert samples == SAMPLES
        found.append((key[1], first))
        assert part[0] * SAMPLES == first
        return SampleDraws(key, samples, first, part)

    monkeypatch.setattr(averaged, "SampleDraws", record)
    return found


def expected_draws(accumulate: int, epochs: int) -> list[tuple[int, int]]:
    step, found = 0, []
    for _ in range(epochs):
        for batch in range(BATCHES):
            found.append((step, batch % accumulate * SAMPLES))
            step += batch % accumulate == accumulate - 1 or batch == BATCHES - 1
    return found


def assert_steps(folder: Path, steps: int) -> None:
    """All that counts steps says this number."""
    names = sorted(path.name for path in (folder / "checkpoints").glob("step-*.ckpt"))
    assert names == [f"step-{step:08d}.ckpt" for step in range(1, steps + 1)]
    for step, name in enumerate(names, 1):
        saved = torch.load(folder / "checkpoints" / name, weights_only=True)
        assert saved["global_step"] == step
        assert saved["state_dict"]["model_ema.num_updates"] == step
        assert saved["lr_schedulers"][0]["last_epoch"] == step
        assert {entry["step"].item() for entry in saved["optimizer_states"][0]["state"].values()} == {step}
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in logged] == list(range(steps))
    assert [row["lr_abs"] for row in logged] == pytest.approx([2e-3 * (1 - step / 100) for step in range(steps)])


@pytest.mark.parametrize("accumulate", [7, 24])
def test_a_step_cut_short_by_the_end_of_an_epoch_takes_the_mean_over_its_own_batches(accumulate):
    sgd = ["model.optimizer={use: sgd, lr: 0.1}", "trainer.max_epochs=1", "trainer.max_steps=-1"]
    weights = []
    for configured in (BATCHES, accumulate):
        changes = [*sgd, f"trainer.accumulate_grad_batches={configured}"]
        assert main(["train", *SETTINGS, *changes, "--name", f"a{configured}"]) == 0
        weights.append(torch.load(f"runs/a{configured}/checkpoints/last.ckpt", weights_only=True)["state_dict"])
    full, short = weights
    torch.testing.assert_close(short, full, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("accumulate", [1, 2, 3, 4])
def test_epochs_end_amid_an_accumulation_and_a_run_after_its_epochs(accumulate, drawn):
    limits = [f"trainer.accumulate_grad_batches={accumulate}", "trainer.max_epochs=2", "trainer.max_steps=-1"]
    assert main(["train", *SETTINGS, *limits, "--name", "a"]) == 0
    assert drawn == expected_draws(accumulate, 2)
    assert_steps(Path("runs/a"), 2 * -(-BATCHES // accumulate))


@pytest.mark.parametrize(("accumulate", "stop"), [(2, 2), (2, 4), (3, 1), (4, 3)])
def test_a_run_that_ends_and_goes_on_amid_an_epoch_takes_the_steps_of_one_that_does_not(accumulate, stop, drawn):
    steps = 2 * -(-BATCHES // accumulate)
    limits = [f"trainer.accumulate_grad_batches={accumulate}"]
    assert main(["train", *SETTINGS, *limits, f"trainer.max_steps={stop}", "--name", "a"]) == 0
    assert_steps(Path("runs/a"), stop)
    assert main(["train", "--resume", "runs/a", f"trainer.max_steps={steps}"]) == 0
    assert drawn == expected_draws(accumulate, 2)
    assert_steps(Path("runs/a"), steps)


def test_the_loss_of_a_step_is_the_mean_of_its_batches():
    """With all images in each step, accumulation changes the loss by rounding only."""
    losses = []
    for accumulate in (1, 2, 3):
        data = f"data={{use: digits, batch_size: {12 // accumulate}, train_fraction: {12 / 1797}}}"
        limits = [data, f"trainer.accumulate_grad_batches={accumulate}", "trainer.max_steps=3"]
        name = f"in-{accumulate}"
        assert main(["train", *SETTINGS, *limits, "--name", name]) == 0
        losses.append(
            [json.loads(line)["loss"] for line in Path("runs", name, "metrics.jsonl").read_text().splitlines()]
        )
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[2] == pytest.approx(losses[0], rel=1e-4)
