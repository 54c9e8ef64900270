"""Laws that are made of another one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sgm_core.roles import SigmaSampler

TakeLosses = Callable[[Tensor, Tensor], Tensor]


class WrappingSigmaSampler(SigmaSampler):
    """Base of laws around another one.

    Attributes:
        sigma_sampler: the inner law.
        stratifies: draws belong together, so that a law around it must draw from it rather than ask its quantile.
        adapts: the quantile changes in training.
        measured: what it learns, a module that a loss holds as its own, so that it is saved; None if it learns nothing.
    """

    def __init__(self, sigma_sampler: SigmaSampler) -> None:
        self.sigma_sampler = sigma_sampler
        self.measured: nn.Module | None = getattr(sigma_sampler, "measured", None)
        self.needs_shape = sigma_sampler.needs_shape
        self._sized: dict[tuple[int, ...], SigmaSampler] = {}

    @property
    def stratifies(self) -> bool:
        return bool(getattr(self.sigma_sampler, "stratifies", False))

    @property
    def adapts(self) -> bool:
        return bool(getattr(self.sigma_sampler, "adapts", False))

    def for_shape(self, shape: Sequence[int]) -> SigmaSampler:
        """The same around the inner law for samples (b, c, *grid)."""
        inner, grid = self.sigma_sampler.for_shape(shape), tuple(shape[2:])
        if inner is self.sigma_sampler and not self.needs_shape:
            return self
        if grid not in self._sized:
            self._sized[grid] = self.around(inner, shape)
        return self._sized[grid]

    @abstractmethod
    def around(self, inner: SigmaSampler, shape: Sequence[int]) -> SigmaSampler:
        """The same around another inner law, that for samples (b, c, *grid)."""

    def take_losses(self, sigma: Tensor, losses: Tensor) -> Tensor:
        """The losses (b,) at the levels sigma (b,) as the inner law wants them, see `take_losses` below."""
        return take_losses(self.sigma_sampler, sigma, losses)


def take_losses(law: SigmaSampler, sigma: Tensor, losses: Tensor) -> Tensor:
    """Show a law that learns the losses (b,) of samples at the levels sigma (b,), and give them weighted as the law
    wants them. Any other law leaves them as they are.

    A loss calls it with `law.for_shape(x.shape)`, after all other weights.
    """
    take: TakeLosses | None = getattr(law, "take_losses", None)
    return losses if take is None else take(sigma, losses)


def refuse(outer: str, law: SigmaSampler, **states: str) -> None:
    """ValueError if a law has no quantile, or is in one of these states: `stratifies`, `adapts`, with what works."""
    for state, works in states.items():
        if getattr(law, state, False):
            raise ValueError(f"{outer} asks the quantiles of its sigma_sampler, and {type(law).__name__} {works}")
    if not law.needs_shape:
        law.quantile(torch.tensor([0.5], dtype=torch.float64))
