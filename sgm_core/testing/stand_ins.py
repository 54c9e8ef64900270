"""Plain parts that stand for those which a component is built with or called with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sgm_core.conditioning import Conditioning
from sgm_core.randomness import randn
from sgm_core.roles import Coefficients, Discretization, Regularizer, Scaling, SigmaSampler, Weighting

DATA_STD = 0.5
"""Standard deviation of the Gaussian data whose denoiser is known exactly."""


@dataclass
class Levels(Discretization):
    """From 20 to 1e-4, evenly spaced in sigma^(1/7): Karras et al. 2022, arXiv:2206.00364, eq. 5."""

    first: float = 20.0

    def sigmas(self, n: int) -> Tensor:
        ends = torch.tensor([20.0, 1e-4], dtype=torch.float64) ** (1 / 7)
        ramp = torch.linspace(0, 1, n, dtype=torch.float64)
        return ((ends[0] + ramp * (ends[1] - ends[0])) ** 7).float().index_fill(0, torch.tensor(0), self.first)


class NoisePrediction(Scaling):
    """D = x - sigma * F: Ho et al. 2020, arXiv:2006.11239."""

    def __call__(self, sigma: Tensor) -> Coefficients:
        return Coefficients(torch.ones_like(sigma), -sigma, 1 / (sigma**2 + 1).sqrt(), sigma)


class LogNormal(SigmaSampler):
    """ln(sigma) ~ N(0, 1)."""

    def __call__(
        self,
        n: int,
        *,
        rand: Tensor | None = None,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        drawn = randn((n,), generator, like=torch.empty(0, device=device)) if rand is None else rand
        return drawn.exp()

    def quantile(self, u: Tensor) -> Tensor:
        deviate: Tensor = torch.special.ndtri(u)
        return deviate.exp()


class Unit(Weighting):
    """1."""

    def __call__(self, sigma: Tensor) -> Tensor:
        return torch.ones_like(sigma)


class NoRegularizer(Regularizer):
    """The latents as they are."""

    def forward(self, z: Tensor) -> tuple[Tensor, dict[str, Any]]:
        return z, {}


STAND_INS: dict[str, Callable[[], Any]] = {
    "discretizations": Levels,
    "scalings": NoisePrediction,
    "sigma_samplers": LogNormal,
    "weightings": Unit,
    "regularizers": NoRegularizer,
}
"""What is filled in for a required part of a kind, unless the test gives one."""


class Scale(nn.Module):
    """A network with one parameter, which acts on every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor, c_noise: Tensor, cond: Conditioning) -> Tensor:
        return x * self.weight.to(x.dtype)


def column(values: Tensor, x: Tensor) -> Tensor:
    """(b,) -> (b, 1, ...), to multiply x with."""
    return values.reshape(-1, *(1 for _ in x.shape[1:]))


def gaussian(x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
    """The exact denoiser of x0 ~ N(0, DATA_STD^2)."""
    return x * column(DATA_STD**2 / (DATA_STD**2 + sigma**2), x).to(x.dtype)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=dtype)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
