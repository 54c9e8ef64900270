"""Losses by noise level: the levels, the mean of each, and a validation that draws nothing anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sgm_core.conditioning import Conditioning
from sgm_core.randomness import seed_of
from sgm_core.roles import Loss, SigmaSampler

UNLOGGED_KEY = "sgm_loss_by_level"
"""The entry of a checkpoint with the training losses that are not logged yet, see `LossByLevel.totals`."""

Total = Callable[[Tensor], Tensor]
"""The sum of a tensor over all processes."""

DRAWS = 2**18
"""Draws that stand for p(sigma): quantiles are off by half a percent of its deviation, and they take 20 ms."""

_SEED = 0
"""Of these draws, and of the order of the levels: the levels are a function of the config alone."""


class SigmaLevels:
    """A few noise levels in place of all of p(sigma).

    A sigma belongs to the level that is nearest in ln(sigma). By default the levels are quantiles of p(sigma), so that
    each has about the same share of the samples, and the edges between them lie where p(sigma) has them.

    Args:
        sigma_sampler: p(sigma).
        levels: how many quantiles, at the middles of as many equal shares; or the levels themselves, positive.

    Attributes:
        sigmas: the levels, (k,) float32, ascending. Quantiles are rounded to the three digits of their names. There are
            fewer than asked for where p(sigma) has fewer.
        names: `sigma_0.12`, of each.
        shares: the part of p(sigma) that belongs to each, (k,), together 1; never 0.
    """

    def __init__(self, sigma_sampler: SigmaSampler, levels: int | Sequence[float]) -> None:
        drawn = sigma_sampler(DRAWS, generator=torch.Generator().manual_seed(_SEED)).sort().values
        drawn = drawn[drawn > 0]  # a table of a discrete process may have a level without noise
        if isinstance(levels, int):
            middles = ((torch.arange(levels, dtype=torch.float32) + 0.5) / levels * len(drawn)).long()
            levels = [float(f"{sigma:.3g}") for sigma in drawn[middles].tolist()]
        by_name = {f"sigma_{sigma:g}": sigma for sigma in sorted(levels)}
        self.names = tuple(by_name)
        self.sigmas = torch.tensor(list(by_name.values()), dtype=torch.float32)
        logs = self.sigmas.log()
        # (k - 1,); finite, so that sigma = inf is above the last one
        self._edges = ((logs[1:] + logs[:-1]) / 2).clamp(max=torch.finfo(logs.dtype).max)
        counts = torch.bincount(self.nearest(drawn), minlength=len(logs))
        self.shares = (counts + 1) / (len(drawn) + len(logs))

    def nearest(self, sigma: Tensor) -> Tensor:
        """The index of the level that each sigma (b,) belongs to, (b,)."""
        if self._edges.device != sigma.device:
            self._edges = self._edges.to(sigma.device, non_blocking=True)
        return torch.bucketize(sigma.float().log(), self._edges)

    def of(self, positions: Iterable[int]) -> Tensor:
        """The level of the samples at these positions of a data set, (b,), on the CPU.

        Any k samples from a multiple of k on have all k levels, each time in another order: where the data repeat
        themselves (frames of a clip, captions of an image), levels do not go with what is repeated.
        """
        k = len(self.sigmas)
        order = cache(lambda block: np.random.default_rng((_SEED, block)).permutation(k))
        return self.sigmas[[int(order(position // k)[position % k]) for position in positions]]


class LossByLevel:
    """The mean loss of each level, added up on the device: nothing waits for it until `by_name`.

    Args:
        levels: none takes all samples together.

    Attributes:
        totals: per level the sum of the losses, and their number, (2, k) float32; none before the first.
    """

    def __init__(self, levels: SigmaLevels | None) -> None:
        self.levels = levels
        self.totals: Tensor | None = None

    @torch.no_grad()
    def add(self, sigma: Tensor | None, losses: Tensor) -> None:
        """Take in the losses (b,) of samples at the levels sigma (b,). Sigma of another shape tells nothing of them."""
        losses = losses.detach().float()
        if self.levels is None:
            found = torch.ones(len(losses), 1, dtype=torch.bool, device=losses.device)
        elif sigma is None or sigma.shape != losses.shape:
            return
        else:
            each = torch.arange(len(self.levels.sigmas), device=losses.device)
            found = self.levels.nearest(sigma)[:, None] == each  # (b, k)
        # not a product: a loss that is not finite stays in its own level
        sums = torch.where(found, losses[:, None], 0).sum(0)
        totals = torch.stack([sums, found.sum(0)])
        self.totals = totals if self.totals is None else self.totals.to(totals.device) + totals

    def over_processes(self, total: Total) -> LossByLevel:
        """The losses of all processes; all of them call this."""
        together = LossByLevel(self.levels)
        together.totals = None if self.totals is None else total(self.totals)
        return together

    def mean(self) -> Tensor:
        """The mean under p(sigma), (): that of each level by its share. Levels without a sample do not count."""
        assert self.totals is not None
        sums, counts = self.totals
        shares = torch.ones(1) if self.levels is None else self.levels.shares
        weights = torch.where(counts > 0, shares.to(counts.device, non_blocking=True), 0)
        mean: Tensor = (weights * sums / counts.clamp(min=1)).sum() / weights.sum()
        return mean

    def by_name(self) -> dict[str, float]:
        """The mean of each level that has samples. Waits for the device."""
        if self.levels is None or self.totals is None:
            return {}
        sums, counts = self.totals.tolist()
        return {
            name: total / count for name, total, count in zip(self.levels.names, sums, counts, strict=True) if count
        }


class Validation:
    """What an engine measures by noise level: its training losses that are not logged yet, and those of a validation.

    A validation gives the same number for the same weights: the level and the noise of a sample depend on its position
    in the validation data alone.

    Args:
        loss_fn: whose p(sigma) the levels stand for; none for an engine that is not trained.
        sigma_levels: how many levels, or which; 0 or none of them: no levels.
        shape: (c, *grid) of a sample, for a p(sigma) that depends on it.

    Attributes:
        levels: none where they are not wanted, or the loss has no p(sigma).
        trained: the losses since the last logged step, of this process.
        validated: the losses of this validation and this process, by the name they are logged under.

    Raises:
        ValueError: levels were given for a loss without a `sigma_sampler`.
    """

    def __init__(
        self, loss_fn: Loss | None, sigma_levels: int | Sequence[float], shape: Sequence[int] | None = None
    ) -> None:
        self.levels: SigmaLevels | None = None
        if loss_fn is not None and sigma_levels:
            if loss_fn.sigma_sampler is not None:
                law = loss_fn.sigma_sampler
                self.levels = SigmaLevels(law if shape is None else law.for_shape((1, *shape)), sigma_levels)
            elif not isinstance(sigma_levels, int):
                name = type(loss_fn).__name__
                raise ValueError(f"sigma_levels is {sigma_levels}, but {name} has no sigma_sampler: leave it out")
        self.trained = LossByLevel(self.levels)
        self.validated: dict[str, LossByLevel] = {}
        self._rows = self._rows_of_first_batch = 0

    def note(self, sigma: Tensor | None, losses: Tensor) -> None:
        """Take in the training losses (b,) of samples at the levels sigma (b,)."""
        if self.levels is not None:
            self.trained.add(sigma, losses)

    def take_trained(self, total: Total) -> dict[str, float]:
        """The mean training loss near each level, since the last call. A level without samples is left out."""
        found = self.trained.over_processes(total).by_name()
        self.trained.totals = None
        return found

    def save(self, checkpoint: dict[str, Any], total: Total) -> None:
        """Add what is not logged yet, so that a resumed run logs the same."""
        if (unlogged := self.trained.over_processes(total).totals) is not None:
            checkpoint[UNLOGGED_KEY] = unlogged.cpu()

    def load(self, checkpoint: Mapping[str, Any], rank: int) -> None:
        """Take what `save` added; the first process has all of it."""
        unlogged = checkpoint.get(UNLOGGED_KEY)
        self.trained.totals = None if unlogged is None else unlogged * (rank == 0)

    def begin(self, names: Iterable[str]) -> None:
        """Nothing is validated yet; the losses will be logged under these names."""
        self.validated = {name: LossByLevel(self.levels) for name in names}
        self._rows = 0

    def positions(self, rows: int, rank: int, processes: int) -> range:
        """The positions of the next samples in the validation data."""
        if not self._rows:
            self._rows_of_first_batch = rows
        # the batches of all processes, as if they were one process's: rank 0's first, rank 1's first, ...
        first = self._rows * processes + rank * self._rows_of_first_batch
        self._rows += rows
        return range(first, first + rows)

    def measure(
        self, name: str, loss: Callable[..., Tensor], x: Tensor, cond: Conditioning, at: range, batch: tuple[int, int]
    ) -> None:
        """Take in the losses of clean x (b, c, *grid), each with a level and noise of its own.

        Args:
            name: one of those given to `begin`.
            loss: one with the denoiser bound to it.
            at: where the samples are in the data, from `positions`.
            batch: batch index and rank. Without levels, level and noise are drawn by these.
        """
        if self.levels is None:
            source = torch.Generator(x.device).manual_seed(seed_of(("noise of a batch", *batch)))
            self.validated[name].add(None, loss(x, cond, source))
        else:
            sigma = self.levels.of(at).to(x.device, non_blocking=True)
            sources = [torch.Generator().manual_seed(seed_of(("noise", i))) for i in at]
            self.validated[name].add(sigma, loss(x, cond, sources, sigma=sigma))

    def results(self, total: Total) -> Iterator[tuple[str, Tensor, dict[str, float]]]:
        """Of each name that has samples: the mean under p(sigma), and the mean at each level. Waits for the device."""
        for name, losses in self.validated.items():
            together = losses.over_processes(total)
            if together.totals is not None:  # there was a batch
                yield name, together.mean(), together.by_name()
