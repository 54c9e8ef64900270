"""Handwritten digits, shipped with the package: something to train on at once, with no download."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray
from torch import Tensor

from sgm_core.shapes import Shape
from sgm_plugins.datamodules.split_data import SplitData

DIGITS = Path(__file__).with_name("assets") / "digits.npz"
SPLIT_SEED = 1998  # the year of the data; any fixed number would do


class Digits(SplitData):
    """1797 images of handwritten digits, 8x8 (E. Alpaydin and C. Kaynak, UCI, CC BY 4.0; see assets/NOTICE).

    Batches are {"image": (b, 1, 8, 8) float32 in [-1, 1], "cls": (b,) int64}.

    Args:
        batch_size: images of a batch, on each device. Training leaves out the incomplete last batch.
        train_fraction: the part to train on; the rest is for validation. Which image falls into which part never
            depends on the seed, so that a second model can be trained on what the first has not seen.
        num_workers: processes that load ahead; the data is in memory, so they gain nothing here.
        seed: of the order in which an epoch visits the images.

    Raises:
        SgmError: a batch is larger than the training part (when the loader is made).
    """

    def __init__(
        self,
        batch_size: Annotated[int, Ge(1)] = 128,
        train_fraction: Annotated[float, Gt(0), Le(1)] = 0.8,
        num_workers: Annotated[int, Ge(0)] = 0,
        seed: Annotated[int, Ge(0)] = 0,
    ) -> None:
        super().__init__(batch_size, num_workers, seed)
        self.train_fraction = train_fraction

    @staticmethod
    def shapes() -> dict[str, Shape]:
        return {"image": (1, 8, 8), "cls": ()}

    def load_parts(self) -> tuple[InMemory, InMemory]:
        return split_digits(self.train_fraction)

    def receive(self, loaded: Any, last: bool) -> dict[str, Any]:
        batch: dict[str, Any] = loaded
        return batch


class InMemory:
    """Values 0..16 to images in [-1, 1], all at once."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
        self.images = torch.from_numpy(images).unsqueeze(1).float() / 8 - 1  # (n, 1, 8, 8)
        self.labels = torch.from_numpy(labels).long()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: list[int]) -> dict[str, Tensor]:
        return {"image": self.images[rows], "cls": self.labels[rows]}


def split_digits(train_fraction: float) -> tuple[InMemory, InMemory]:
    """What to train on, this part of all digits, and the rest."""
    with np.load(DIGITS, allow_pickle=False) as file:
        images, labels = file["images"], file["labels"]
    order = np.random.default_rng(SPLIT_SEED).permutation(len(images))
    n_train = max(1, round(train_fraction * len(images)))
    train, rest = order[:n_train], order[n_train:]
    return InMemory(images[train], labels[train]), InMemory(images[rest], labels[rest])
