"""A stranger's package in a fresh venv: found by name, trained or frozen as the config says, broken parts ignored."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from e2e.conftest import ROOT

pytestmark = pytest.mark.slow

CONFIG = """
extends: digits
model:
  conditioner:
    embedders:
      - {input_key: cls, trainable: true, ucg_rate: 0.2, embedder: {use: parity, embed_dim: 64}}
      - {input_key: cls, embedder: {use: "sgm-parity:fourier", embed_dim: 64, scale: 2.0}}
  optimizer: {use: adamw, lr: 1.0e-3, weight_decay: 0.1}
trainer: {max_steps: 6, callbacks: [], log_every_n_steps: 1}
checkpoint: {every_n_steps: 1, keep_last: 10}
"""

TRAINED, FROZEN = "conditioner.embedders.0.embedding.weight", "conditioner.embedders.1.frequencies"


@pytest.fixture(scope="module")
def run(fresh, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    (folder / "parity.yaml").write_text(CONFIG)
    done = fresh.run("sgm", "train", "parity.yaml", "--name", "parity", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "parity"


def checkpoint(run: Path, step: int) -> dict:
    return torch.load(run / "checkpoints" / f"step-{step:08d}.ckpt", weights_only=True)


def test_training_changes_the_trainable_embedder_and_leaves_the_bytes_of_the_frozen_one(run):
    first, last = checkpoint(run, 1)["state_dict"], checkpoint(run, 6)["state_dict"]
    assert not torch.equal(first[TRAINED], last[TRAINED])
    assert first[FROZEN].numpy().tobytes() == last[FROZEN].numpy().tobytes()


def test_the_frozen_embedder_is_neither_in_the_optimizer_nor_in_the_average(run):
    saved = checkpoint(run, 6)
    averaged = {key.removeprefix("model_ema.shadow.") for key in saved["state_dict"] if ".shadow." in key}
    live = {key for key in saved["state_dict"] if key.startswith(("model.", "conditioner."))}
    assert averaged == live - {FROZEN}
    optimized = saved["optimizer_states"][0]
    assert sum(len(group["params"]) for group in optimized["param_groups"]) == len(averaged)
    shapes = [tuple(state["exp_avg"].shape) for state in optimized["state"].values()]
    assert sorted(shapes) == sorted(tuple(saved["state_dict"][key].shape) for key in averaged)


def test_the_checkpoint_names_the_plugin_and_a_machine_without_it_says_what_to_install(fresh, run, tmp_path):
    lock = json.loads((run / "lock.json").read_text())
    assert ("sgm-parity", "0.1.0") in {(row["distribution"], row["version"]) for row in lock}
    plugin = ROOT / "tests" / "e2e" / "sgm-parity"
    fresh.run("pip", "uninstall", "--yes", "sgm-parity", cwd=run)
    try:
        done = fresh.run("sgm", "sample", str(run), "--cond", "cls=7", cwd=run)
    finally:
        fresh.pip_install(str(shutil.copytree(plugin, tmp_path / "sgm-parity")), cwd=run)
    assert done.returncode == 1
    assert "pip install sgm-parity==0.1.0" in done.stderr
    assert "Traceback" not in done.stderr


def test_where_the_plugin_is_switched_off_the_switch_is_named(fresh, run):
    done = fresh.run("sgm", "sample", str(run), "--cond", "cls=7", cwd=run, SGM_PLUGINS="off")
    assert done.returncode == 1
    assert "embedders 'parity' cannot be used: SGM_PLUGINS is 'off'" in done.stderr
    assert "pip install" not in done.stderr


def test_a_broken_component_is_listed_and_harms_only_the_config_that_uses_it(fresh, run):
    listed = json.loads(fresh.run("sgm", "list", "embedders", "--json", cwd=run).stdout)
    assert {"broken", "parity", "class"} <= {row["name"] for row in listed}
    override = "model.conditioner.embedders[0].embedder={use: broken}"
    done = fresh.run("sgm", "check", "digits", override, cwd=run)
    assert done.returncode == 1
    assert "SystemExit: this module must not be imported" in done.stderr
    assert "sgm-parity 0.1.0" in done.stderr


def test_samples_of_the_trained_model_come_out_as_png(fresh, run):
    done = fresh.run("sgm", "sample", str(run), "--cond", "cls=[1,2,3]", "--steps", "3", "--out", "drawn", cwd=run)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (run / "drawn").iterdir()} == {
        "grid.png", "seed-000000.png", "seed-000001.png", "seed-000002.png",
    }  # fmt: skip
