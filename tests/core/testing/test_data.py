"""Datamodules: each broken promise is found."""

from __future__ import annotations

import itertools

import lightning.pytorch as L
import pytest
import torch
from support.broken_components import Case, Cases

from sgm_core.testing import check_component

broken = Cases()


class Rows(L.LightningDataModule):
    """Batches of 4, right."""

    def batches(self):
        return [{"image": torch.ones(4, 1, 2, 2), "txt": list("abcd")} for _ in range(3)]

    def train_dataloader(self):
        return self.batches()


@broken("datamodules", "a batch is a mapping")
class Tuples(Rows):
    """(image, label)."""

    def batches(self):
        return [(torch.ones(4), torch.ones(4))]


@broken("datamodules", "one row per sample")
class Ragged(Rows):
    """A caption too few."""

    def batches(self):
        return [{"image": torch.ones(4, 1, 2, 2), "txt": list("abc")}]


@broken("datamodules", "each epoch has batches(?s:.*)epoch 1")
class RunsDry(Rows):
    """An iterator, which is empty the second time."""

    def train_dataloader(self):
        return iter(self.batches())


SEEDS = itertools.count()


@broken("datamodules", "the same call under the same seed")
class NeverTheSame(Rows):
    """Noise from a source of its own."""

    def batches(self):
        return [{"image": torch.full((4, 1, 2, 2), float(next(SEEDS)))}]


@broken("datamodules", "a batch is finite")
class HasHoles(Rows):
    """A missing value."""

    def batches(self):
        return [{"image": torch.full((4, 1, 2, 2), float("nan"))}]


BUILDS = itertools.count()


@broken("datamodules", "another one built alike")
class SeededByTheClock(Rows):
    """Another order each time it is built."""

    def __init__(self) -> None:
        super().__init__()
        self.build = float(next(BUILDS))

    def batches(self):
        return [{"image": torch.full((4, 1, 2, 2), self.build)}]


@pytest.mark.parametrize("case", broken)
def test_it_is_found(case: Case):
    case.check()


@pytest.mark.parametrize(
    ("kind", "component", "inputs"),
    [
        ("datamodules", Rows, {}),
    ],
)
def test_what_the_broken_ones_were_made_from_is_whole(kind, component, inputs):
    check_component(kind, component, inputs=inputs)
