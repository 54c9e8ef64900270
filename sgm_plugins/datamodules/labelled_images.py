"""What data modules of small labelled images share: everything in memory, as bytes, in two fixed parts."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sgm_core.errors import SgmError
from sgm_plugins.datamodules.split_data import SplitData

SPLIT_SEED = 1998  # any fixed number would do


class LabelledImages(SplitData):
    """Batches {"image": (b, c, h, w) float32 in [-1, 1], "cls": (b,) int64} of what `read` gives."""

    def __init__(self, batch_size: int, train_fraction: float, num_workers: int, seed: int) -> None:
        super().__init__(batch_size, num_workers, seed)
        self.train_fraction = train_fraction

    @abstractmethod
    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """All images, (n, c, h, w), and their labels, (n,).

        Raises:
            SgmError: the files are missing or broken.
        """

    def load_parts(self) -> tuple[_InMemory, _InMemory]:
        images, labels = self.read()
        order = np.random.default_rng(SPLIT_SEED).permutation(len(images))
        n_train = max(1, round(self.train_fraction * len(images)))
        train, rest = order[:n_train], order[n_train:]
        return _InMemory(images[train], labels[train]), _InMemory(images[rest], labels[rest])

    def receive(self, loaded: Any, last: bool) -> dict[str, Any]:
        batch: dict[str, Any] = loaded
        return batch


class _InMemory:
    """Bytes to images in [-1, 1], a batch at a time: a quarter of the memory of float32."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
        self.images = torch.from_numpy(images)
        self.labels = torch.from_numpy(labels).long()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: list[int]) -> dict[str, Tensor]:
        return {"image": self.images[rows].float() / 127.5 - 1, "cls": self.labels[rows]}


def check_labels(labels: NDArray[np.uint8], source: str, classes: int = 10) -> None:
    """Raise SgmError if a label is not in 0..classes-1: garbage must not become a class."""
    if len(labels) and labels.max() >= classes:
        raise SgmError(
            f"{source}: has a label {labels.max()}, and the classes are 0 to {classes - 1}; is it another file, or a "
            "broken one? Get it again"
        )
