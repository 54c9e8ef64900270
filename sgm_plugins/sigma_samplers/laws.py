"""Laws of the noise levels met in training."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from sgm_core.randomness import randint, randn
from sgm_core.roles import Discretization, SigmaSampler
from sgm_plugins.discretizations import sigma_table


class EDMSigmaSampler(SigmaSampler):
    """Log-normal: ln(sigma) ~ N(p_mean, p_std^2). Karras et al. 2022, arXiv:2206.00364, Table 1.

    `rand` is standard normal.

    Args:
        p_mean: mean of ln(sigma).
        p_std: its standard deviation.
    """

    def __init__(self, p_mean: float = -1.2, p_std: Annotated[float, Ge(0)] = 1.2) -> None:
        self.p_mean = p_mean
        self.p_std = p_std

    def __call__(
        self,
        n: int,
        *,
        rand: Tensor | None = None,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        return (self.p_mean + self.p_std * _normal(n, rand, generator, device)).exp()


class DiscreteSigmaSampler(SigmaSampler):
    """Uniform over the levels of a discrete process.

    Args:
        discretization, num_idx, append_zero, flip: the table of levels; those of the discrete denoiser.

    `rand` is the index into the table, an integer.
    """

    def __init__(
        self,
        discretization: Discretization,
        num_idx: Annotated[int, Ge(1)],
        append_zero: bool = False,
        flip: bool = True,
    ) -> None:
        self.sigmas = sigma_table(discretization, num_idx, append_zero, flip)

    def __call__(
        self,
        n: int,
        *,
        rand: Tensor | None = None,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        if rand is None:
            rand = randint(len(self.sigmas), (n,), generator, device=device)
        return self.sigmas.to(device, non_blocking=True)[rand.to(device)]


class ZeroSigmaSampler(SigmaSampler):
    """Next to no noise, sigma = 1e-5, whatever `rand`: trains on clean data without dividing by zero."""

    def __call__(
        self,
        n: int,
        *,
        rand: Tensor | None = None,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        # Draws like the others, so that the noise that a loss draws next does not depend on the sigma sampler.
        return torch.full_like(_normal(n, rand, generator, device), 1e-5)


def _normal(n: int, rand: Tensor | None, generator: torch.Generator | None, device: torch.device | str) -> Tensor:
    """`rand`, or else n draws of a standard normal, float32 on `device`."""
    like = torch.empty(0, dtype=torch.float32, device=device)
    return randn((n,), generator, like=like) if rand is None else rand.to(like)
