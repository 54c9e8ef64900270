"""The levels of discrete processes."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from sgm_core.roles import Discretization


class LegacyDDPMDiscretization(Discretization):
    """The levels of Stable Diffusion's discrete process, evenly thinned out.

    Forward process of Ho et al. 2020, arXiv:2006.11239, with the schedule of Rombach et al. 2022, arXiv:2112.10752:
    sqrt(beta) is linear in the timestep. sigma = sqrt((1 - abar) / abar), abar = cumprod(1 - beta).

    Args:
        linear_start, linear_end: beta of the first and of the last timestep.
        num_timesteps: timesteps of the process, the most levels there are.

    Attributes:
        alphas_cumprod: abar, (num_timesteps,) float64.

    Raises:
        ValueError: a beta not between 0 and 1.
    """

    def __init__(
        self,
        linear_start: Annotated[float, Gt(0), Lt(1)] = 0.00085,
        linear_end: Annotated[float, Gt(0), Lt(1)] = 0.0120,
        num_timesteps: Annotated[int, Ge(1)] = 1000,
    ) -> None:
        if not (0 < linear_start < 1 and 0 < linear_end < 1):
            raise ValueError(f"linear_start is {linear_start} and linear_end is {linear_end}; both lie between 0 and 1")
        self.num_timesteps: int = num_timesteps
        betas = (
            torch.linspace(linear_start**0.5, linear_end**0.5, num_timesteps, dtype=torch.float64, device="cpu") ** 2
        )
        self.alphas_cumprod = torch.cumprod(1 - betas, dim=0)

    def timesteps(self, n: int) -> list[int]:
        """The n timesteps that a grid of n levels keeps, ascending; the last one is always among them.

        Raises:
            ValueError: n is not in 1..num_timesteps.
        """
        if not 1 <= n <= self.num_timesteps:
            raise ValueError(f"n is {n}; this process has 1 to {self.num_timesteps} noise levels (num_timesteps)")
        # In floats, not in integers: where a timestep would be whole but for rounding, published models and
        # samples were made with the rounded-down one (n = 99: 110, where exact arithmetic gives 111).
        last = self.num_timesteps - 1
        return [int(i * (-last / n) + last) for i in reversed(range(n))]

    def sigmas(self, n: int) -> Tensor:
        """n sigmas, descending, float32. ValueError for n outside 1..num_timesteps."""
        abar = self.alphas_cumprod[self.timesteps(n)].flip(0)
        # float32 before the root: one rounding of the variance, as in the tables stored in public checkpoints. The root
        # itself in float64: some processors' float32 roots are off by a last digit
        return ((1 - abar) / abar).float().double().sqrt().float()

    @staticmethod
    def infinite(n: int | None) -> bool:
        return False


class DDPMDiscretization(Discretization):
    """The levels of a discrete process: Ho et al. 2020 (DDPM), arXiv:2006.11239.

    sigma = sqrt((1 - abar) / abar), abar = cumprod(1 - beta). Spacings and integer timesteps are those of diffusers'
    DDIMScheduler; Lin et al. 2023, arXiv:2305.08891, compares them.

    Args:
        betas: `linear` between the two ends; `scaled_linear`, whose root is linear, Rombach et al. 2022,
            arXiv:2112.10752; `cosine`, Nichol and Dhariwal 2021, arXiv:2102.09672, eq. 17, which has no ends to choose.
        beta_start, beta_end: beta of the first and of the last timestep.
        num_timesteps: timesteps of the process, the most levels there are.
        spacing: which n timesteps are kept: `trailing`, every (num_timesteps / n)-th from the last; `leading`, every
            (num_timesteps // n)-th from the first; `linspace`, evenly from the first to the last.
        steps_offset: added to the timesteps of `leading`; the other spacings have none.
        zero_snr: sqrt(abar) is shifted and stretched so that the last abar is 0, algorithm 1 of arXiv:2305.08891: the
            last timestep is pure noise, sigma = inf.

    Attributes:
        alphas_cumprod: abar, (num_timesteps,) float64.
    """

    def __init__(
        self,
        betas: Literal["scaled_linear", "linear", "cosine"] = "scaled_linear",
        beta_start: Annotated[float, Gt(0), Lt(1)] = 0.00085,
        beta_end: Annotated[float, Gt(0), Lt(1)] = 0.012,
        num_timesteps: Annotated[int, Ge(1)] = 1000,
        spacing: Literal["trailing", "leading", "linspace"] = "trailing",
        steps_offset: Annotated[int, Ge(0)] = 0,
        zero_snr: bool = False,
    ) -> None:
        self.num_timesteps: int = num_timesteps
        self.spacing = spacing
        self.steps_offset = steps_offset
        abar = torch.cumprod(1 - _betas(betas, beta_start, beta_end, num_timesteps), dim=0)
        if zero_snr:
            root = abar.sqrt()
            abar = ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2 if num_timesteps > 1 else abar * 0
        self.alphas_cumprod = abar

    def timesteps(self, n: int) -> list[int]:
        """The n timesteps that a grid of n levels keeps, descending.

        Raises:
            ValueError: n is not in 1..num_timesteps, or steps_offset leads beyond the last timestep.
        """
        total = self.num_timesteps
        if not 1 <= n <= total:
            raise ValueError(f"n is {n}; this process has 1 to {total} noise levels (num_timesteps)")
        if self.spacing == "trailing":
            return [round(total - i * (total / n)) - 1 for i in range(n)]
        if self.spacing == "linspace":
            return [round(i * ((total - 1) / max(n - 1, 1))) for i in reversed(range(n))]
        highest = (n - 1) * (total // n) + self.steps_offset
        if highest >= total:
            raise ValueError(
                f"steps_offset {self.steps_offset} leads to timestep {highest} with n = {n}, and the last one is "
                f"{total - 1}; fewer steps work, or a smaller offset"
            )
        return [i * (total // n) + self.steps_offset for i in reversed(range(n))]

    def sigmas(self, n: int) -> Tensor:
        """n sigmas, descending, float32. Errors are those of `timesteps`."""
        abar = self.alphas_cumprod[self.timesteps(n)]
        return ((1 - abar) / abar).sqrt().float()

    @staticmethod
    def infinite(n: int | None, *, zero_snr: bool, spacing: str, num_timesteps: int) -> bool:
        # `leading` keeps the last timestep only if it keeps all, `linspace` unless it keeps one
        return zero_snr and (n == num_timesteps or spacing == "trailing" or (spacing == "linspace" and n != 1))


def _betas(form: str, start: float, end: float, number: int) -> Tensor:
    """(number,) float64."""
    if form == "cosine":
        at = [math.cos((i / number + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(number + 1)]
        return torch.tensor(
            [min(1 - at[i + 1] / at[i], 0.999) for i in range(number)], dtype=torch.float64, device="cpu"
        )
    if form == "linear":
        return torch.linspace(start, end, number, dtype=torch.float64, device="cpu")
    return torch.linspace(start**0.5, end**0.5, number, dtype=torch.float64, device="cpu") ** 2
