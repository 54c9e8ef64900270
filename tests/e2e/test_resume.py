"""A run that is killed at any point and resumed is the run that was never killed, bit for bit."""

import json
import os
import random
import warnings
from pathlib import Path

import pytest
import torch
from support.killable import differences, train_until_killed

from sgm_core.cli.app import main

STEPS = 30
"""Optimizer steps: two epochs and a part of the third."""
SMALL = [
    "model.network.channel_mult=[1]",
    "model.network.dropout=0.2",  # draws from torch's global state
    "model.loss_fn.offset_noise_level=0.1",
    "model.lr_schedule={use: cosine, warmup_steps: 4, total_steps: 40}",
    "model.sampler.num_steps=2",
    f"trainer.max_steps={STEPS}",
    "trainer.check_val_every_n_epoch=1",
    "trainer.limit_val_batches=1",
    "trainer.log_every_n_steps=1",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "checkpoint.every_n_steps=5",
]
SETUPS = {  # with the steps after which, or soon after which, the run is killed
    "accumulating": (["data.batch_size=64", "trainer.accumulate_grad_batches=2"], (9, 21)),  # an epoch is 13 steps
    "workers": (["data.batch_size=128", "data.num_workers=1"], (6, 17)),  # 12 steps
}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # the commands change it


def saved(run: Path) -> dict:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def rows(run: Path) -> list[dict]:
    """What was logged; a kill may tear nothing, and a resume logs nothing twice."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_the_same(run: Path, whole: Path) -> None:
    assert rows(run) == rows(whole)
    assert [row["step"] for row in rows(run)] == list(range(STEPS))
    assert sum("val_loss" in row for row in rows(run)) == 2
    one, other = saved(run), saved(whole)
    assert one["global_step"] == STEPS
    assert one["optimizer_states"][0]["state"]
    assert any(key.startswith("model_ema.shadow.") for key in one["state_dict"])
    assert not differences(one, other)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kill -9")
@pytest.mark.parametrize("setup", SETUPS)
def test_a_run_killed_again_and_again_is_the_run_that_was_not(sgm_forked, setup):
    """Each life of the run is killed some steps after the checkpoint that it went on from."""
    settings, kills = SETUPS[setup]
    arguments = [*SMALL, *settings]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert main(["train", "digits", *arguments, "--name", "whole"]) == 0
        run, draw, at = Path("runs/killed"), random.Random(setup), []
        arguments = ["train", "digits", *arguments, "--name", "killed"]
        for first in kills:
            step = draw.randrange(first, first + 5)
            at.append(train_until_killed(sgm_forked, run, arguments, step, draw.uniform(0, 0.01)))
            arguments = ["train", "--resume", str(run)]
        assert main(arguments) == 0
    finally:
        torch.set_num_threads(threads)
    assert max(at) < STEPS
    assert_the_same(run, Path("runs/whole"))


@pytest.mark.slow
def test_other_intervals_of_logging_images_validation_and_saving_do_not_change_a_weight():
    weights = []
    for name, others in {
        "often": ["trainer.log_every_n_steps=1", "trainer.callbacks=[{use: image_logger, every_n_steps: 2}]"],
        "never": [
            "trainer.log_every_n_steps=7",
            "trainer.callbacks=[]",
            "trainer.limit_val_batches=0",
            "checkpoint.every_n_steps=100",
        ],
        "validated": ["trainer.val_check_interval=3", "trainer.num_sanity_val_steps=0"],
    }.items():
        arguments = [*SMALL, "data.batch_size=128", "trainer.max_steps=14", *others]
        assert main(["train", "digits", *arguments, "--name", name]) == 0
        weights.append({key: saved(Path("runs") / name)[key] for key in ("state_dict", "optimizer_states")})
    assert not differences(weights[0], weights[1])
    assert not differences(weights[0], weights[2])


@pytest.mark.parametrize("config", ["digits", "autoencoder_digits"])
def test_a_resumed_run_draws_what_it_would_have_drawn_unless_it_gets_another_seed(config):
    fast = [
        "trainer.callbacks=[]",
        "trainer.limit_val_batches=0",
        "trainer.log_every_n_steps=1",
        "trainer.accelerator=cpu",
        "trainer.enable_progress_bar=false",
        "data.batch_size=8",
    ]
    losses = {}
    for name, resume in {"whole": None, "resumed": [], "other": ["seed=5", "--allow-change"]}.items():
        steps = 4 if resume is None else 2
        assert main(["train", config, *fast, f"trainer.max_steps={steps}", "--name", name]) == 0
        if resume is not None:
            assert main(["train", "--resume", f"runs/{name}", "trainer.max_steps=4", *resume]) == 0
        losses[name] = [row["loss"] for row in rows(Path("runs") / name)]
    assert losses["resumed"] == losses["whole"]
    assert losses["other"][:2] == losses["whole"][:2]
    assert losses["other"][2] != losses["whole"][2]
