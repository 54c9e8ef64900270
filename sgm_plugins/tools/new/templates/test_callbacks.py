from pathlib import Path

import pytest
import sgm_core as sgm
import torch
from lightning.pytorch import LightningModule, Trainer
from sgm_core.testing import check_component
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sgm_plugins.tools.new.templates.callbacks import ExampleCallback


def test_a_config_finds_it_by_name() -> None:
    found = sgm.resolve("callbacks", "sgm-example:example")
    assert found is ExampleCallback


def test_it_keeps_the_contract_of_its_kind() -> None:
    check_component("callbacks", ExampleCallback)


class Slope(LightningModule):
    """Its loss is 3 a + 4 b: the gradient is (3, 4), of norm 5, always."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return (self.weight * torch.tensor([3.0, 4.0])).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_the_norm_of_the_gradient_is_logged(tmp_path: Path) -> None:
    trainer = Trainer(
        max_steps=2,
        accelerator="cpu",
        callbacks=[ExampleCallback()],
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Slope(), DataLoader([0, 1]))  # type: ignore[arg-type]  # a list will do as a data set
    assert trainer.callback_metrics["grad_norm"].item() == pytest.approx(5.0)
