"""Checkpoints of an engine that is no DiffusionEngine."""

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.utils.data import DataLoader

import sgm_core as sgm
from sgm_core.checkpoint import load_engine, read_checkpoint
from sgm_core.config.api import config_from
from sgm_core.run import start_run
from sgm_core.saving import Saver
from sgm_core.signals import Requests


class Line(L.LightningModule):
    """y = a x, by a plain LightningModule."""

    def __init__(self, start: float = 0.0) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor(start))

    def training_step(self, batch, batch_idx):
        return ((self.a * batch - 3 * batch) ** 2).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Numbers(L.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(torch.ones(8, 1), batch_size=2)


def test_any_engine_that_a_run_trains_is_rebuilt_from_its_checkpoint(register, tmp_path):
    register("engines", "line")(Line)
    register("datamodules", "numbers")(Numbers)
    config = config_from(
        {
            "model": {"use": "line", "start": 1.0},
            "data": "numbers",
            "trainer": {"max_steps": 3, "callbacks": [], "accelerator": "cpu", "enable_progress_bar": False},
        }
    )
    run = start_run(config, tmp_path, "a")
    assert run.train() == 0
    for path in (run.folder / "checkpoints" / "last.ckpt", run.folder / "model.safetensors"):
        assert read_checkpoint(path).provenance.config["model"] == {"use": "line", "start": 1.0}
        engine = load_engine(path)
        assert isinstance(engine, Line)
        assert 1 < engine.a.item() < 3
    assert sgm.to_config(engine) == {"use": "line", "start": 1.0}


@pytest.mark.parametrize("first", [True, False])
def test_every_rank_takes_part_in_saving_and_the_first_keeps_the_folder(first, tmp_path):
    """B40: a sharded strategy gathers the weights of all ranks; one that saves alone waits for ever."""
    saved = []

    class Rank:
        global_step, is_global_zero, max_steps = 3, first, 3
        strategy = SingleDeviceStrategy()

        def save_checkpoint(self, path):
            saved.append(path.name)
            path.write_text("whole")

    Saver(tmp_path, 1, 3, Requests(), KeyboardInterrupt).save(Rank(), ends=True)
    assert saved == ["step-00000003.ckpt"]
    assert (tmp_path / "last.ckpt").exists() == first
