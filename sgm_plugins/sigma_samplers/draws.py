"""What sigma samplers draw."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from sgm_core.randomness import randint, randn
from sgm_core.roles import SigmaSampler

FINEST = 2.0**-32
"""Uniform draws keep this distance to 0 and 1, where a law may have no level."""


def normal(n: int, rand: Tensor | None, generator: torch.Generator | None, device: torch.device | str) -> Tensor:
    """`rand`, or else n draws of a standard normal, float32 on `device`."""
    like = torch.empty(0, dtype=torch.float32, device=device)
    return randn((n,), generator, like=like) if rand is None else rand.to(like)


def uniform(n: int, rand: Tensor | None, generator: torch.Generator | None, device: torch.device | str) -> Tensor:
    """`rand`, or else n draws, uniform in (0, 1), float64 on `device`; on the CPU for a device without float64."""
    at = "cpu" if torch.device(device).type == "mps" else device
    if rand is None:
        return (randint(2**31, (n,), generator, device=at).double() + 0.5) * 2.0**-31
    return rand.to(at, torch.float64).clamp(FINEST, 1 - FINEST)


class DrawnByQuantile(SigmaSampler):
    """Base of laws that draw the quantile of a uniform number. `rand` is that number, in [0, 1)."""

    falling: ClassVar[bool] = False
    """Whether the numbers count from the highest level, so that sigma falls with `rand`."""

    def __call__(
        self,
        n: int,
        *,
        rand: Tensor | None = None,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        u = uniform(n, rand, generator, device)
        return as_levels(self.quantile(1 - u if self.falling else u), device)


def as_levels(sigma: Tensor, device: torch.device | str) -> Tensor:
    """Levels as a sigma sampler gives them, float32 on `device`."""
    return sigma.float().to(device, non_blocking=True)
