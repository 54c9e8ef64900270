"""A look at the gradients."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule, Trainer
from sgm_core.roles import Callback


class ExampleCallback(Callback):
    """Logs the norm of all gradients together before each optimizer step.

    Args:
        key: the name in the metrics.
    """

    def __init__(self, key: str = "grad_norm") -> None:
        self.key = key

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        gradients = [parameter.grad for parameter in pl_module.parameters() if parameter.grad is not None]
        pl_module.log(self.key, torch.nn.utils.get_total_norm(gradients))
