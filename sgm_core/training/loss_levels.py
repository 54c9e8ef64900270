"""Losses told apart by noise level: the levels, and the mean of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from sgm_core.conditioning import Conditioning
from sgm_core.roles import Denoise, SigmaSampler

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
            middles = ((torch.arange(levels) + 0.5) / levels * len(drawn)).long()
            levels = [float(f"{sigma:.3g}") for sigma in drawn[middles].tolist()]
        by_name = {f"sigma_{sigma:g}": sigma for sigma in sorted(levels)}
        self.names = tuple(by_name)
        self.sigmas = torch.tensor(list(by_name.values()), dtype=torch.float32)
        logs = self.sigmas.log()
        self._edges = (logs[1:] + logs[:-1]) / 2  # (k - 1,)
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
        orders: dict[int, np.ndarray] = {}
        chosen = []
        for position in positions:
            block, place = divmod(position, k)
            if block not in orders:
                orders[block] = np.random.default_rng((_SEED, block)).permutation(k)
            chosen.append(int(orders[block][place]))
        return self.sigmas[chosen]


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
        self.load(torch.stack([sums, found.sum(0)]))

    def load(self, totals: Tensor) -> None:
        """Take in other totals, a checkpoint's say."""
        self.totals = totals if self.totals is None else self.totals.to(totals.device) + totals

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


class NotesSigma:
    """D(x; sigma, cond) that remembers the sigma of its first call: a loss need not tell at which level it was.

    Args:
        denoise: what is called.

    Attributes:
        sigma: of the first call; none before.
    """

    def __init__(self, denoise: Denoise) -> None:
        self.denoise = denoise
        self.sigma: Tensor | None = None

    def __call__(self, x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        if self.sigma is None:
            self.sigma = sigma.detach()
        return self.denoise(x, sigma, cond)
