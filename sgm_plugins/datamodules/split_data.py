"""What the built-in data modules share: data in two parts, visited in an order that depends on (seed, epoch) alone."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any, Protocol

from sgm_core.errors import SgmError
from sgm_core.roles import DataModule
from sgm_plugins.datamodules.epoch_loader import BatchSource, EpochBatches, EpochLoader


class Part(BatchSource, Protocol):
    """A dataset of known length that loads a whole batch at once.

    With an attribute `groups`, arrays of rows, no batch has rows of two of them (images of two shapes, say).
    """

    def __len__(self) -> int: ...


class SplitData(DataModule, ABC):
    """A part to train on, shuffled anew in each epoch, and the rest for validation."""

    def __init__(self, batch_size: int, num_workers: int, seed: int) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self._loaders: list[EpochLoader] = []

    @abstractmethod
    def load_parts(self) -> tuple[Part, Part]:
        """What to train on and the rest, which may be empty."""

    @abstractmethod
    def receive(self, loaded: Any, last: bool) -> dict[str, Any]:
        """The batch of what a part loaded; `last` of an epoch or not. Runs in the training process."""

    @cached_property
    def parts(self) -> tuple[Part, Part]:
        """What to train on and the rest."""
        return self.load_parts()

    def setup(self, stage: str) -> None:
        """Find out what is wrong with the data before anything else starts."""
        self.parts  # noqa: B018

    def problems(self) -> list[str]:
        """What would end a training before its first step, in the words of the training."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                self.setup("fit")
                self.train_dataloader()
                self.val_dataloader()
            except SgmError as error:
                return [str(error)]
        return []

    def train_dataloader(self) -> EpochLoader:
        """Shuffled batches, all of full size. Not shuffled where the trainer shall overfit some batches."""
        overfit = getattr(self.trainer, "overfit_batches", 0) > 0
        return self._loader(self.parts[0], shuffle=not overfit, drop_last=True)

    def val_dataloader(self) -> EpochLoader | list[EpochLoader]:
        """The rest, once, in a fixed order; an empty list when there is none."""
        rest = self.parts[1]
        return self._loader(rest, shuffle=False, drop_last=False) if len(rest) else []

    def _loader(self, part: Part, *, shuffle: bool, drop_last: bool) -> EpochLoader:
        batches = EpochBatches(
            len(part),
            self.batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            seed=self.seed,
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=self.trainer.world_size if self.trainer else 1,
            groups=getattr(part, "groups", None),
        )
        loader = EpochLoader(part, batches, self.num_workers, self.receive)
        self._loaders.append(loader)
        return loader

    def teardown(self, stage: str) -> None:
        """End the processes that load ahead."""
        for loader in self._loaders:
            loader.close()
        self._loaders.clear()
