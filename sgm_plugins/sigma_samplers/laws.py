"""Laws of the noise levels met in training."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from sgm_core.randomness import randint
from sgm_core.roles import Discretization, SigmaSampler
from sgm_plugins.discretizations.table import sigma_table
from sgm_plugins.sigma_samplers.draws import DrawnByQuantile, normal


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
        return (self.p_mean + self.p_std * normal(n, rand, generator, device)).exp()

    def quantile(self, u: Tensor) -> Tensor:
        """0 at u = 0 and inf at u = 1, unless p_std is 0."""
        return _log_normal(u, self.p_mean, self.p_std)


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
        self._ascending = self.sigmas.sort().values

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

    def quantile(self, u: Tensor) -> Tensor:
        """A level of the table."""
        index = (u * len(self._ascending)).long().clamp(0, len(self._ascending) - 1)
        return self._ascending.to(u)[index]


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
        return torch.full_like(normal(n, rand, generator, device), 1e-5)

    def quantile(self, u: Tensor) -> Tensor:
        """1e-5."""
        return torch.full_like(u, 1e-5)


# --- laws of t = sigma / (1 + sigma), the time of flow models --------------------------------------------------------


class LogitNormalSigmaSampler(SigmaSampler):
    """ln(t / (1 - t)) ~ N(mean, std^2). Esser et al. 2024, arXiv:2403.03206, section 3.1.

    Since t / (1 - t) is sigma, this is a log-normal sigma: `edm` with p_mean = mean and p_std = std.

    `rand` is standard normal.

    Args:
        mean: above 0 there is more noise.
        std: the smaller, the more levels are near the middle one.

    Raises:
        ValueError: std is not above 0.
    """

    def __init__(self, mean: float = 0.0, std: Annotated[float, Gt(0)] = 1.0) -> None:
        if not std > 0:
            raise ValueError(f"std is {std}; a standard deviation above 0 works, 1 is usual")
        self.mean = mean
        self.std = std

    def __call__(
        self,
        n: int,
        *,
        rand: Tensor | None = None,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        sigma = (self.mean + self.std * normal(n, rand, generator, device)).exp()
        return sigma.clamp(torch.finfo(sigma.dtype).tiny, torch.finfo(sigma.dtype).max)  # only a huge std goes beyond

    def quantile(self, u: Tensor) -> Tensor:
        """0 at u = 0 and inf at u = 1."""
        return _log_normal(u, self.mean, self.std)


class UniformTimeSigmaSampler(DrawnByQuantile):
    """t is uniform in (0, 1): the objective of rectified flow, Liu et al. 2022, arXiv:2209.03003.

    `rand` is t in [0, 1). Draws are between 2^-32 and 1 - 2^-32.
    """

    def quantile(self, u: Tensor) -> Tensor:
        """0 at u = 0 and inf at u = 1."""
        return u / (1 - u)


class ModeSigmaSampler(DrawnByQuantile):
    """t = 1 - u - scale (cos^2(pi u / 2) - 1 + u), u uniform: Esser et al. 2024, arXiv:2403.03206, section 3.1.

    `rand` is u in [0, 1). Draws of u are between 2^-32 and 1 - 2^-32.

    Args:
        scale: above 0 the middle is drawn more often than the ends, below 0 less often; 0 is uniform. Outside of
            -1 to 2 / (pi - 2), about 1.75, t would not fall throughout while u rises.

    Raises:
        ValueError: a scale outside of this range.
    """

    falling: ClassVar[bool] = True

    def __init__(self, scale: Annotated[float, Ge(-1), Le(1.7519383938841089)] = 1.29) -> None:
        if not -1 <= scale <= 2 / (math.pi - 2):
            raise ValueError(f"scale is {scale}; from -1 to {2 / (math.pi - 2):.6g} t(u) is monotone and works")
        self.scale = scale

    def quantile(self, u: Tensor) -> Tensor:
        """0 at u = 0 and inf at u = 1."""
        return self._time(u) / self._time(1 - u)

    def _time(self, u: Tensor) -> Tensor:
        """t that a share u of the draws is below, without cancellation near 0; 1 - t is that of 1 - u."""
        return u + self.scale * (u - (math.pi / 2 * u).sin() ** 2)


class CosMapSigmaSampler(DrawnByQuantile):
    """t = 1 - 1 / (tan(pi u / 2) + 1), u uniform; then sigma = tan(pi u / 2), and the log-SNR is that of the cosine
    schedule. Esser et al. 2024, arXiv:2403.03206, section 3.1.

    `rand` is u in [0, 1). Draws of u are between 2^-32 and 1 - 2^-32.
    """

    def quantile(self, u: Tensor) -> Tensor:
        """0 at u = 0 and inf at u = 1."""
        return (math.pi / 2 * u).sin() / (math.pi / 2 * (1 - u)).sin()


def _log_normal(u: Tensor, mean: float, std: float) -> Tensor:
    """The quantile of exp(N(mean, std^2)), like u."""
    if std == 0:
        return torch.full_like(u, math.exp(mean))
    deviate: Tensor = torch.special.ndtri(u)
    return (mean + std * deviate).exp()
