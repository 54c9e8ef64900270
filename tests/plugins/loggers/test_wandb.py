"""Weights & Biases gets numbers and pictures, offline too, in the folder of the run; a missing extra is one line."""

from __future__ import annotations

import importlib
import sys
import warnings
from pathlib import Path

import pytest
from PIL import Image

FAST = [
    "model.network.channel_mult=[1]", "data.batch_size=8", "trainer.max_steps=3", "trainer.limit_val_batches=0",
    "trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "trainer.log_every_n_steps=1",
    "model.sampler.num_steps=2",
]  # fmt: skip


class NoWandb:
    """Finds it nowhere."""

    def find_spec(self, name, path=None, target=None):
        if name == "wandb":
            raise ModuleNotFoundError("No module named 'wandb'", name="wandb")


@pytest.fixture
def wandb(monkeypatch):
    """The package, where the extra is installed; nobody is logged in, and nothing is sent."""
    module = pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    module.teardown()  # what it has read of the environment
    yield module
    module.teardown()


def test_a_missing_wandb_is_one_line_that_says_how_to_get_it(monkeypatch, tmp_path, capsys):
    from sgm_core.cli.app import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    for name in [name for name in sys.modules if name.partition(".")[0] == "wandb"] + ["sgm_plugins.loggers.wandb"]:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "meta_path", [NoWandb(), *sys.meta_path])
    with pytest.raises(ModuleNotFoundError) as caught:
        importlib.import_module("sgm_plugins.loggers.wandb")
    assert caught.value.name == "wandb"
    assert main(["train", "digits", *FAST, "trainer.logger=wandb", "--name", "a"]) == 1
    err = capsys.readouterr().err
    assert "wandb" in err
    assert 'pip install "sgm-core[wandb]"' in err
    assert "Traceback" not in err
    assert not Path("runs/a").exists()


def test_a_run_keeps_numbers_and_pictures_in_its_folder_and_a_resumed_one_its_id(wandb, tmp_path, monkeypatch):
    from sgm_core.cli.app import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    logger = "trainer.logger={use: wandb, offline: true, tags: [one, two]}"
    assert main(["train", "digits", *FAST, logger, "--name", "a"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    first = Path("runs/a/wandb/run-id.txt").read_text()
    [kept] = Path("runs/a/wandb").glob("offline-run-*")
    content = next(kept.glob("*.wandb")).read_bytes()
    assert kept.name.endswith(first)
    assert b"lr_abs" in content
    assert b"trainer/global_step" in content
    assert any(kept.rglob("*.png"))
    assert main(["train", "--resume", "runs/a", "trainer.max_steps=4"]) == 0
    assert Path("runs/a/wandb/run-id.txt").read_text() == first
    assert {path.name[-8:] for path in Path("runs/a/wandb").glob("offline-run-*")} == {first}


def test_the_variable_says_offline_too_and_nobody_logged_in_is_one_line(wandb, tmp_path, monkeypatch, capsys):
    from sgm_core.errors import SgmError
    from sgm_plugins.loggers.wandb import WandbMetrics

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(SgmError, match=r"^wandb: .*offline: true"):
        WandbMetrics(save_dir=tmp_path / "online").log_metrics({"loss": 1.0}, 0)
    wandb.teardown()
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = WandbMetrics(name="mine")
    logger.write_to(tmp_path / "run")
    logger.log_metrics({"loss": 1.0}, 0)
    logger.log_image(key="samples", images=[Image.new("L", (8, 8))], step=0)
    assert logger.experiment.offline
    assert logger.name == "sgm"  # the project, as Lightning has it
    logger.finalize("success")
    assert wandb.run is None
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*"))
