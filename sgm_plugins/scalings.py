"""Preconditionings, D(x; sigma) = c_skip(sigma) * x + c_out(sigma) * F(c_in(sigma) * x; c_noise(sigma)).

The frame and the letters are those of Karras et al. 2022 (EDM), arXiv:2206.00364, eq. 7 and Table 1. At sigma = 0
each scaling here but `x0` gives D(x; 0) = x. Time is t = sigma / (1 + sigma), the share of noise of a flow model.

`infinite` says what `at_infinity` gives, from the arguments alone, so that a config can be checked before anything is
built: "c_noise" where all limits are finite, "index" where c_noise has none and the network has to be told the index of
the level in a table, "" where there is no limit.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Gt
from torch import Tensor

from sgm_core.roles import Coefficients, Scaling


class EDMScaling(Scaling):
    """The preconditioning of EDM, Table 1, column "Ours": unit variance at the network's input and target.

    Args:
        sigma_data: standard deviation of the data.
    """

    log_c_noise: ClassVar[bool] = True

    def __init__(self, sigma_data: Annotated[float, Gt(0)] = 0.5) -> None:
        self.sigma_data = sigma_data

    def __call__(self, sigma: Tensor) -> Coefficients:
        total = sigma**2 + self.sigma_data**2
        root = total.sqrt()
        return Coefficients(
            c_skip=self.sigma_data**2 / total,
            c_out=sigma * self.sigma_data / root,
            c_in=root.reciprocal(),
            c_noise=_quarter_log(sigma),
        )

    @staticmethod
    def infinite() -> str:
        return ""


class EpsScaling(Scaling):
    """The network predicts the noise: Ho et al. 2020 (DDPM), arXiv:2006.11239; Table 1 of EDM, column "VE/DDIM".

    `c_noise` is sigma itself; a discrete denoiser turns it into a timestep.
    """

    def __call__(self, sigma: Tensor) -> Coefficients:
        return Coefficients(
            c_skip=torch.ones_like(sigma),
            c_out=-sigma,
            c_in=(sigma**2 + 1).sqrt().reciprocal(),
            c_noise=sigma,
        )

    @staticmethod
    def infinite() -> str:
        return ""


class VScaling(Scaling):
    """The network predicts the velocity: Salimans and Ho 2022, arXiv:2202.00512, appendix D.

    With sigma_data = 1 and x scaled to unit variance, v = (noise - sigma * x0) / sqrt(sigma^2 + 1). With
    `c_noise: atan` this is TrigFlow, Lu and Song 2024, arXiv:2410.11081, whose time is arctan(sigma / sigma_data).

    Args:
        sigma_data: standard deviation of the data.
        c_noise: what the network is told: sigma itself, which a discrete denoiser turns into a timestep; `log`,
            ln(sigma) / 4; `atan`, arctan(sigma / sigma_data) in 0..pi/2; `t`, sigma / (1 + sigma) in 0..1. At
            sigma = inf the last two have a limit, and sigma has one by the index of a table.
    """

    def __init__(
        self,
        sigma_data: Annotated[float, Gt(0)] = 1.0,
        c_noise: Literal["sigma", "log", "atan", "t"] = "sigma",
    ) -> None:
        self.sigma_data = sigma_data
        self.c_noise = c_noise
        self.log_c_noise = c_noise == "log"  # type: ignore[misc]  # of this object, where others say it for their class

    def __call__(self, sigma: Tensor) -> Coefficients:
        total = sigma**2 + self.sigma_data**2
        root = total.sqrt()
        return Coefficients(
            c_skip=self.sigma_data**2 / total,
            c_out=-sigma * self.sigma_data / root,
            c_in=root.reciprocal(),
            c_noise=self._told(sigma),
        )

    def _told(self, sigma: Tensor) -> Tensor:
        match self.c_noise:
            case "log":
                return _quarter_log(sigma)
            case "atan":
                return (sigma / self.sigma_data).atan()
            case "t":
                return sigma / (1 + sigma)
        return sigma

    def at_infinity(self) -> tuple[float, float, float, float] | None:
        limits = {"sigma": math.inf, "atan": math.pi / 2, "t": 1.0}
        return None if self.c_noise == "log" else (0.0, -self.sigma_data, 1.0, limits[self.c_noise])

    @staticmethod
    def infinite(*, c_noise: str) -> str:
        return "" if c_noise == "log" else "index" if c_noise == "sigma" else "c_noise"


class VScalingEDMNoise(Scaling):
    """Velocity prediction with EDM's noise conditioning, ln(sigma) / 4: Stable Video Diffusion, arXiv:2311.15127.

    It is `v` with `c_noise: log`.
    """

    log_c_noise: ClassVar[bool] = True

    def __init__(self) -> None:
        self.v = VScaling(c_noise="log")

    def __call__(self, sigma: Tensor) -> Coefficients:
        return self.v(sigma)

    @staticmethod
    def infinite() -> str:
        return ""


class FlowScaling(Scaling):
    """The network predicts the velocity of a straight path, noise - x0: rectified flow and flow matching.

    Liu et al. 2022, arXiv:2209.03003; Lipman et al. 2022, arXiv:2210.02747; Esser et al. 2024 (Stable Diffusion 3),
    arXiv:2403.03206. The path is (1 - t) x0 + t noise = x / (1 + sigma), which is what the network gets.

    Args:
        multiplier: c_noise is multiplier * t; models that came from DDPM count to 1000.
        reversed: time runs from noise to data, and the network predicts x0 - noise: c_noise is multiplier * (1 - t), as
            in SiT, Lumina 2 and Z-Image.
    """

    def __init__(self, multiplier: Annotated[float, Gt(0)] = 1000.0, reversed: bool = False) -> None:
        self.multiplier = multiplier
        self.reversed = reversed

    def __call__(self, sigma: Tensor) -> Coefficients:
        signal = (1 + sigma).reciprocal()  # 1 - t
        t = sigma * signal
        return Coefficients(
            c_skip=signal,
            c_out=t if self.reversed else -t,
            c_in=signal,
            c_noise=self.multiplier * (signal if self.reversed else t),
        )

    def at_infinity(self) -> tuple[float, float, float, float]:
        return (1.0, 1.0, 1.0, 0.0) if self.reversed else (1.0, -1.0, 1.0, self.multiplier)

    @staticmethod
    def infinite() -> str:
        return "c_noise"


class X0Scaling(Scaling):
    """The network predicts the data: prediction_type "sample" of Ho et al. 2020 (DDPM), arXiv:2006.11239.

    Args:
        path: what the network gets, and how it is told the level. `flow` is the straight path, x / (1 + sigma) and
            multiplier * t; `vp` is the variance-preserving one, x / sqrt(sigma^2 + 1) and sigma itself, which a
            discrete denoiser turns into a timestep.
        multiplier: of t, with path flow.
    """

    def __init__(self, path: Literal["flow", "vp"] = "flow", multiplier: Annotated[float, Gt(0)] = 1000.0) -> None:
        self.path = path
        self.multiplier = multiplier

    def __call__(self, sigma: Tensor) -> Coefficients:
        flow = self.path == "flow"
        c_in = (1 + sigma if flow else (sigma**2 + 1).sqrt()).reciprocal()
        return Coefficients(
            c_skip=torch.zeros_like(sigma),
            c_out=torch.ones_like(sigma),
            c_in=c_in,
            c_noise=self.multiplier * (sigma * c_in) if flow else sigma,
        )

    def at_infinity(self) -> tuple[float, float, float, float]:
        return (0.0, 1.0, 1.0, self.multiplier if self.path == "flow" else math.inf)

    @staticmethod
    def infinite(*, path: str) -> str:
        return "c_noise" if path == "flow" else "index"


def _quarter_log(sigma: Tensor) -> Tensor:
    """ln(sigma) / 4, EDM's c_noise; finite at sigma = 0, where an infinite one would make the network answer NaN."""
    return sigma.clamp(min=torch.finfo(sigma.dtype).tiny).log() / 4
