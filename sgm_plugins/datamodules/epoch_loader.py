"""A data loader whose batches are a function of (seed, epoch, position): a resumed run sees what it would have seen."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from traceback import format_exception
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from sgm_core.errors import SgmError


class Rows(list[int]):
    """The rows of a batch, and the epoch that they are visited in: what is random about a row may depend on both.

    Args:
        rows: their numbers.
        epoch: counted from 0.
    """

    def __init__(self, rows: Iterable[int] = (), epoch: int = 0) -> None:
        super().__init__(rows)
        self.epoch = epoch


class BatchSource(Protocol):
    """A dataset that loads a whole batch at once."""

    def __getitem__(self, rows: Rows) -> Any: ...


class EpochBatches:
    """The rows of each batch of an epoch, this rank's share of them.

    Every rank gets equally many batches, so that none waits for another: with `drop_last` what does not divide is
    left out, without it the first batches are repeated.

    Args:
        n: rows of the dataset.
        batch_size: rows of a batch, on one rank.
        shuffle: a new order per epoch, drawn from (seed, epoch) and not from any global random state.
        drop_last: leave out the incomplete last batch.
        seed: of the orders.
        rank, world_size: this process among those that share the epoch.
        groups: the rows, in groups that do not share a batch (images of one shape, say); by default one of all. Each
            group leaves out, or keeps, its own incomplete last batch, and the batches of all are shuffled.

    Raises:
        SgmError: with `drop_last`, there are too few rows for a single batch.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        *,
        shuffle: bool,
        drop_last: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        groups: Sequence[NDArray[np.int64]] | None = None,
    ) -> None:
        self.n = n
        self.groups = [np.arange(n)] if groups is None else groups
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.start = 0
        self.sampler = self  # Lightning announces the epoch to `loader.batch_sampler.sampler.set_epoch`
        if not len(self):
            most = max((len(group) for group in self.groups), default=0) // world_size
            ranks = f" on each of {world_size} ranks" if world_size > 1 else ""
            raise SgmError(
                f"batch_size is {batch_size}{ranks}, but there are {n} images to train on: "
                f"use a batch_size of at most {most}"
            )

    def set_epoch(self, epoch: int) -> None:
        """Go to this epoch, at its start unless it is the one that a resume continues."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __len__(self) -> int:
        batches = sum(self._batches_of(group) for group in self.groups)
        return batches // self.world_size if self.drop_last else -(-batches // self.world_size)

    def _batches_of(self, group: NDArray[np.int64]) -> int:
        return len(group) // self.batch_size if self.drop_last else -(-len(group) // self.batch_size)

    def __iter__(self) -> Iterator[Rows]:
        batches = self._of_all_ranks()
        for position in range(self.start, len(self)):
            yield Rows(batches[(position * self.world_size + self.rank) % len(batches)].tolist(), self.epoch)

    def _of_all_ranks(self) -> list[NDArray[np.int64]]:
        random = np.random.default_rng((self.seed, self.epoch))
        batches = []
        for group in self.groups:
            order = random.permutation(group) if self.shuffle else group
            batches += [order[i * self.batch_size :][: self.batch_size] for i in range(self._batches_of(group))]
        if self.shuffle and len(self.groups) > 1:
            batches = [batches[i] for i in random.permutation(len(batches))]
        return batches


class EpochLoader:
    """Iterates over the batches of an epoch.

    Lightning saves and restores its state with a checkpoint, so that a run resumed inside an epoch continues with the
    batch that comes next; no skipped batch is loaded. Without a trainer each full pass is the next epoch.
    It is not a `DataLoader`: Lightning would put its own sampler, of single rows, into one.

    Args:
        source: loads the batch of a list of rows; in a worker process where there are workers.
        batches: the rows of each batch.
        num_workers: processes that load ahead; 0 loads in this one.
        receive: makes of what the source gave, and of whether it is the epoch's last, the batch. Runs in this process.
    """

    def __init__(
        self,
        source: BatchSource,
        batches: EpochBatches,
        num_workers: int = 0,
        receive: Callable[[Any, bool], Any] | None = None,
    ) -> None:
        self.batch_sampler = batches
        self.receive = receive
        self.position = 0
        self._loader = _loader(source, batches, num_workers, persistent=num_workers > 0)

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[Any]:
        batches = self.batch_sampler
        self.position = batches.start
        for item in _told(self._loader):
            self.position += 1
            yield item if self.receive is None else self.receive(item, self.position == len(self))
        batches.set_epoch(batches.epoch + 1)
        self.position = 0

    def close(self) -> None:
        """End the worker processes; another pass starts new ones.

        Left to the garbage collector, which may take their pipes away first, each of them holds it up for 5 seconds.
        """
        iterator = self._loader._iterator
        if iterator is not None:
            iterator._shutdown_workers()  # type: ignore[attr-defined]  # torch has no public name for it
            self._loader._iterator = None

    def state_dict(self) -> dict[str, int]:
        """Where it stands: the epoch and the number of its batches that were handed out."""
        return {"epoch": self.batch_sampler.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from there."""
        self.batch_sampler.epoch = state["epoch"]
        self.batch_sampler.start = self.position = state["position"]


def loaded(source: Any, rows: Sequence[int], num_workers: int) -> Iterator[Any]:
    """source[row] for each row, in order, loaded ahead by so many processes."""
    yield from _told(_loader(source, rows, num_workers, persistent=False))


def _loader(source: Any, rows: Any, num_workers: int, persistent: bool) -> DataLoader[Any]:
    return DataLoader(
        _Carrying(source) if num_workers else source,
        batch_size=None,
        sampler=rows,
        num_workers=num_workers,
        persistent_workers=persistent,
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # torch draws a seed for workers per pass: not from the training's state
    )


class _Failed(NamedTuple):
    """An exception of a worker, on its way to the training process."""

    error: Exception


class _Carrying(Dataset[Any]):
    """Gives the exception in place of what could not be loaded: torch would make one text of it and its traceback."""

    def __init__(self, source: Any) -> None:
        self.source = source

    def __getitem__(self, row: Any) -> Any:
        try:
            return self.source[row]
        except Exception as error:
            error.add_note("in a worker process:\n" + "".join(format_exception(error)))
            try:
                pickle.dumps(copy(error))  # a copy is made as the other process would make it
            except Exception:  # it cannot travel
                error = RuntimeError(f"{type(error).__name__}: {error}")
            return _Failed(error)


def _told(loader: DataLoader[Any]) -> Iterator[Any]:
    """What a loader gives. An error of a worker is raised as it would be without workers.

    Raises:
        SgmError: a worker was killed.
    """
    iterator = iter(loader)
    while True:
        try:
            item = next(iterator, _END)
        except RuntimeError as error:
            if loader.num_workers and "DataLoader worker" in str(error):
                raise SgmError(
                    "a process that loads data was killed, perhaps for want of memory or of shared memory (/dev/shm): "
                    "use fewer of them, data.num_workers, or none (0)"
                ) from error
            raise
        if item is _END:
            return
        if isinstance(item, _Failed):
            raise item.error
        yield item


_END = object()


def _as_it_is(batch: Any) -> Any:
    return batch
