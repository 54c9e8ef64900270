"""A grid that is shifted towards noise, by as much as the size of a sample asks for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Lt
from torch import Tensor

from sgm_core.roles import Discretization
from sgm_plugins.discretizations.table import sigma_of, signal_of


class ShiftedDiscretization(Discretization):
    """Every sigma times a factor: the time shift of Esser et al. 2024 (Stable Diffusion 3), arXiv:2403.03206.

    In times, t -> shift t / (1 + (shift - 1) t). The factor is either `shift`, or exp(mu) with mu linear in the number
    of tokens of a sample, as in Flux. Other programs call it flow_shift, time_shift or mu.

    Args:
        discretization: the grid before the shift.
        shift: the factor, for samples of every size.
        base_shift, max_shift: mu at `base_tokens` and at `max_tokens`; beyond them the line goes on. The sampler tells
            the size; elsewhere call `for_shape` first.
        base_tokens, max_tokens: numbers of tokens.
        patch: a token has patch^2 latent pixels, so that a sample (b, c, *grid) has prod(grid) / patch^2 tokens.
        terminal: after the shift, 1 - t is stretched so that the last t is this one, as in LTX-Video. A grid of
            one infinite level stays as it is.

    Raises:
        ValueError: not exactly one of `shift` and the pair `base_shift`, `max_shift`; base_tokens is max_tokens.
    """

    def __init__(
        self,
        discretization: Discretization,
        shift: Annotated[float, Gt(0)] | None = None,
        base_shift: float | None = None,
        max_shift: float | None = None,
        base_tokens: Annotated[int, Ge(1)] = 256,
        max_tokens: Annotated[int, Ge(1)] = 4096,
        patch: Annotated[int, Ge(1)] = 2,
        terminal: Annotated[float, Gt(0), Lt(1)] | None = None,
    ) -> None:
        self.by_size = Shift(shift, base_shift, max_shift, base_tokens, max_tokens, patch)
        self.discretization = discretization
        self.num_timesteps = discretization.num_timesteps
        self.needs_shape = shift is None or discretization.needs_shape
        self.shift = shift
        self.terminal = terminal

    def for_shape(self, shape: Sequence[int]) -> Discretization:
        """The levels for samples (b, c, *grid), whose shift is fixed."""
        if not self.needs_shape:
            return self
        inner = self.discretization.for_shape(shape)
        return ShiftedDiscretization(inner, self.by_size.factor(shape), terminal=self.terminal)

    def sigmas(self, n: int) -> Tensor:
        """n sigmas, descending, float32. ValueError where the shift depends on a size that is not known."""
        if self.shift is None:
            raise ValueError(
                "base_shift and max_shift depend on the size of the sample, which is not known here; "
                "`for_shape(shape)` gives the levels for a size, and `shift` in their place holds for all sizes"
            )
        sigmas = self.discretization.sigmas(n).double() * self.shift
        if self.terminal is None:
            return sigmas.float()
        signal = signal_of(sigmas)
        return sigma_of(signal * ((1 - self.terminal) / signal[-1]) if signal[-1] > 0 else signal)

    @staticmethod
    def infinite(n: int | None, *, discretization: Callable[[int | None], bool]) -> bool:
        return discretization(n)


@dataclass(frozen=True)
class Shift:
    """The factor of sigma, from the parameters of a shift: see `ShiftedDiscretization`.

    Raises:
        ValueError: not exactly one of `shift` and the pair `base_shift`, `max_shift`; base_tokens is max_tokens;
            a factor that is not above 0.
    """

    shift: float | None
    base_shift: float | None
    max_shift: float | None
    base_tokens: int
    max_tokens: int
    patch: int

    def __post_init__(self) -> None:
        given = [name for name in ("shift", "base_shift", "max_shift") if getattr(self, name) is not None]
        if given not in (["shift"], ["base_shift", "max_shift"]):
            found = f"{', '.join(given)} {'are' if len(given) > 1 else 'is'} given" if given else "no shift is given"
            raise ValueError(f"{found}; either shift works, or base_shift and max_shift, both")
        if self.shift is not None and not 0 < self.shift < math.inf:
            raise ValueError(f"shift is {self.shift}; a factor above 0 works, and 1 shifts nothing")
        if self.base_tokens == self.max_tokens:
            raise ValueError(f"base_tokens and max_tokens are both {self.base_tokens}; a line needs two points")

    def factor(self, shape: Sequence[int]) -> float:
        """That of samples (b, c, *grid)."""
        if self.shift is not None:
            return self.shift
        assert self.base_shift is not None
        assert self.max_shift is not None
        tokens = math.prod(shape[2:]) / self.patch**2
        slope = (self.max_shift - self.base_shift) / (self.max_tokens - self.base_tokens)
        return math.exp(self.base_shift + slope * (tokens - self.base_tokens))
