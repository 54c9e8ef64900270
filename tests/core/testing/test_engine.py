"""Engines: each broken promise is found."""

from __future__ import annotations

import lightning.pytorch as L
import pytest
import torch
from support.broken_components import Case, Cases, X
from torch import nn

from sgm_core.testing import check_component

broken = Cases()


class Linear(L.LightningModule):
    """One weight, fitted to the images, right."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def training_step(self, batch):
        return (self.weight * batch["image"]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@broken("engines", "a Trainer can fit it(?s:.*)KeyError", {"picture": X})
class ReadsAnotherEntry(Linear):
    """Looks for the images elsewhere."""


@broken("engines", "it leaves the batch as it was", {"image": X})
class ScalesTheBatch(Linear):
    """In place."""

    def training_step(self, batch):
        batch["image"].mul_(0.5)
        return super().training_step(batch)


@broken("engines", "it learns", {"image": X})
class LearnsNothing(Linear):
    """A learning rate of 0."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


@broken("engines", "its parameters stay finite", {"image": X})
class Explodes(Linear):
    """A learning rate of 1e30, upwards."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e30, maximize=True)


@pytest.mark.parametrize("case", broken)
def test_it_is_found(case: Case):
    case.check()


@pytest.mark.parametrize(
    ("kind", "component", "inputs"),
    [
        ("engines", Linear, {"image": X}),
    ],
)
def test_what_the_broken_ones_were_made_from_is_whole(kind, component, inputs):
    check_component(kind, component, inputs=inputs)
