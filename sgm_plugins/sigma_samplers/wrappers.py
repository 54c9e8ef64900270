"""Another law, shifted, clamped to a range, or spread evenly over the samples of a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from sgm_core.randomness.samples import current
from sgm_core.roles import SigmaSampler
from sgm_plugins.discretizations.shifted import Shift
from sgm_plugins.sigma_samplers.draws import DrawnByQuantile, as_levels, uniform
from sgm_plugins.sigma_samplers.wrapping import WrappingSigmaSampler, refuse

LEAST_MASS = 1e-9
"""Share of the inner law that a range needs: in float64 a smaller one has few levels that can be told apart."""


class ShiftedSigmaSampler(WrappingSigmaSampler):
    """sigma times a factor: more noise for larger images. Esser et al. 2024, arXiv:2403.03206, eq. 23.

    The factor is fixed, or grows with the size of the samples, as the discretization of this name has it.

    `rand` is that of the inner law.

    Args:
        sigma_sampler: the inner law.
        shift: the factor of sigma; t = sigma / (1 + sigma) becomes shift t / (1 + (shift - 1) t).
        base_shift, max_shift: in its place, the factor exp(mu) with mu linear in the number of tokens: base_shift at
            base_tokens, max_shift at max_tokens, and on the same line outside of these. Flux has 0.5 and 1.15.
        base_tokens, max_tokens: these numbers of tokens.
        patch: height and width of a token in pixels of the latents: a sample has h w / patch^2 tokens.

    Raises:
        ValueError: not exactly one of the two forms; equal numbers of tokens. When levels are asked for, that the size
            of the samples is needed and not known.
    """

    def __init__(
        self,
        sigma_sampler: SigmaSampler,
        shift: Annotated[float, Gt(0)] | None = None,
        base_shift: float | None = None,
        max_shift: float | None = None,
        base_tokens: Annotated[int, Ge(1)] = 256,
        max_tokens: Annotated[int, Ge(1)] = 4096,
        patch: Annotated[int, Ge(1)] = 2,
    ) -> None:
        super().__init__(sigma_sampler)
        self.shift = shift
        self.needs_shape |= shift is None
        self.by_size = Shift(shift, base_shift, max_shift, base_tokens, max_tokens, patch)

    def around(self, inner: SigmaSampler, shape: Sequence[int]) -> SigmaSampler:
        return ShiftedSigmaSampler(inner, self.by_size.factor(shape))

    def __call__(
        self,
        n: int,
        *,
        rand: Tensor | None = None,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        return self._known() * self.sigma_sampler(n, rand=rand, generator=generator, device=device)

    def quantile(self, u: Tensor) -> Tensor:
        """The factor times that of the inner law."""
        return self._known() * self.sigma_sampler.quantile(u)

    def take_losses(self, sigma: Tensor, losses: Tensor) -> Tensor:
        return super().take_losses(sigma / self._known(), losses)

    def _known(self) -> float:
        if self.shift is None:
            raise ValueError(
                "base_shift and max_shift need the size of the samples, and it is not known: take "
                "for_shape((b, c, h, w)) first; in a config, model.latent_shape says it"
            )
        return self.shift


class ClampedSigmaSampler(DrawnByQuantile, WrappingSigmaSampler):
    """The inner law within a range: what lies outside is not drawn, and nothing piles up at the ends.

    For models that share the noise levels, as the two experts of Wan 2.2 do, and for distilled ones.

    `rand` is uniform in [0, 1): the share of the range that is below.

    Args:
        sigma_sampler: the inner law, which needs a quantile.
        sigma_min, sigma_max: the ends of the range, both within it.

    Raises:
        ValueError: sigma_min above sigma_max; a range with less than 1e-9 of the inner law, so that there is nothing to
            draw; an inner law whose quantiles are not known or change in training.
    """

    def __init__(
        self,
        sigma_sampler: SigmaSampler,
        sigma_min: Annotated[float, Ge(0)] = 0.0,
        sigma_max: Annotated[float, Gt(0)] = math.inf,
    ) -> None:
        super().__init__(sigma_sampler)
        if not 0 <= sigma_min <= sigma_max:
            raise ValueError(f"sigma_min is {sigma_min} and sigma_max {sigma_max}; 0 <= sigma_min <= sigma_max works")
        refuse(
            "clamped",
            sigma_sampler,
            stratifies="draws them together: put stratified around clamped",
            adapts="changes them in training: put adaptive around clamped",
        )
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max
        self._low, self._high = (0.0, 1.0) if self.needs_shape else self._range()

    @staticmethod
    def infinite(*, sigma_max: float) -> bool:
        return sigma_max == math.inf

    def _range(self) -> tuple[float, float]:
        """The shares of the inner law between which its levels are within the range."""
        quantile, low, high = self.sigma_sampler.quantile, self.sigma_min, self.sigma_max
        first = _edge(lambda u: quantile(u) < low)[1]
        last = _edge(lambda u: quantile(u) <= high)[0]
        if last - first < LEAST_MASS:
            ends = quantile(torch.tensor([0.01, 0.99], dtype=torch.float64)).tolist()
            raise ValueError(
                f"sigma_sampler has no levels from sigma_min {low:g} to sigma_max {high:g}; "
                f"nearly all of its levels are from {ends[0]:.3g} to {ends[1]:.3g}"
            )
        return first, last

    def around(self, inner: SigmaSampler, shape: Sequence[int]) -> SigmaSampler:
        return ClampedSigmaSampler(inner, self.sigma_min, self.sigma_max)

    def quantile(self, u: Tensor) -> Tensor:
        """That of the inner law, at u of the way from the lowest level of the range to the highest."""
        inner = (self._low + (self._high - self._low) * u).clamp(self._low, self._high)
        return self.sigma_sampler.quantile(inner)


class StratifiedSigmaSampler(WrappingSigmaSampler):
    """Draw i of n is the quantile (i + u_i) / n of the inner law, u_i uniform: a step has levels of each part of it.

    The mean over a batch has less variance than with independent draws, and the same expectation. In a training step
    the n draws are those of all samples of the step, of all processes and micro-batches.

    `rand` is u_i in [0, 1).

    Args:
        sigma_sampler: the inner law, which needs a quantile.

    Raises:
        ValueError: an inner law whose quantiles are not known.
    """

    def __init__(self, sigma_sampler: SigmaSampler) -> None:
        super().__init__(sigma_sampler)
        refuse("stratified", sigma_sampler, stratifies="is stratified already: leave out one of the two")

    @property
    def stratifies(self) -> bool:
        return True

    def around(self, inner: SigmaSampler, shape: Sequence[int]) -> SigmaSampler:
        return StratifiedSigmaSampler(inner)

    def __call__(
        self,
        n: int,
        *,
        rand: Tensor | None = None,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        part, parts = current().part if rand is None and generator is None else (0, 1)
        u = uniform(n, rand, generator, device)
        within = (torch.arange(n, dtype=u.dtype, device=u.device) + u) / n
        return as_levels(self.sigma_sampler.quantile((part + within) / parts), device)

    def quantile(self, u: Tensor) -> Tensor:
        """That of the inner law."""
        return self.sigma_sampler.quantile(u)


def _edge(holds: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """The last share from 0 to 1 for which something holds, and the first for which it does not: it holds up to some
    share. Twice 0, or twice 1, where it holds for none, or for all."""
    low, high = torch.tensor([0.0, 1.0], dtype=torch.float64)
    if not holds(low) or holds(high):
        return (0.0, 0.0) if not holds(low) else (1.0, 1.0)
    for _ in range(6):  # to 2^-60, finer than float64 is near 1
        points = torch.linspace(low, high, 1025, dtype=torch.float64)
        held = int(holds(points).sum())
        low, high = points[held - 1], points[held]
    return low.item(), high.item()
