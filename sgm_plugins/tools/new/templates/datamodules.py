"""Images that are made up."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge
from sgm_core.roles import DataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


class ExampleDataModule(DataModule):
    """Images with one bright half. Batches are {"image": (b, 1, size, size) in [-1, 1], "cls": (b,) int64}.

    Args:
        batch_size: images of a batch.
        length: images of an epoch, one half of each class.
        size: height and width.
        seed: of the order.
    """

    def __init__(
        self,
        batch_size: Annotated[int, Ge(1)] = 16,
        length: Annotated[int, Ge(1)] = 256,
        size: Annotated[int, Ge(2)] = 8,
        seed: Annotated[int, Ge(0)] = 0,
    ) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.data = Halves(length, size)
        self.seed = seed

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        order = torch.Generator().manual_seed(self.seed)
        return DataLoader(self.data, batch_size=self.batch_size, shuffle=True, generator=order)


class Halves(Dataset[dict[str, Tensor]]):
    """The left half is bright in class 0, the right one in class 1."""

    def __init__(self, length: int, size: int) -> None:
        self.length = length
        self.size = size

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        image, label = -torch.ones(1, self.size, self.size), i % 2
        image.chunk(2, dim=-1)[label].fill_(1.0)
        return {"image": image, "cls": torch.tensor(label)}
