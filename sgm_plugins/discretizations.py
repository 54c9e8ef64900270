"""Grids of noise levels."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from sgm_core.roles import Discretization


class EDMDiscretization(Discretization):
    """Evenly spaced in sigma^(1/rho): Karras et al. 2022, arXiv:2206.00364, eq. 5.

    Args:
        sigma_min, sigma_max: the ends of the grid; n = 1 gives sigma_max alone.
        rho: the larger, the shorter the steps near sigma_min.

    Raises:
        ValueError: not 0 < sigma_min <= sigma_max.
    """

    def __init__(
        self,
        sigma_min: Annotated[float, Gt(0)] = 0.002,
        sigma_max: Annotated[float, Gt(0)] = 80.0,
        rho: Annotated[float, Gt(0)] = 7.0,
    ) -> None:
        if not 0 < sigma_min <= sigma_max:
            raise ValueError(f"sigma_min is {sigma_min} and sigma_max is {sigma_max}; 0 < sigma_min <= sigma_max works")
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max
        self.rho = rho

    def sigmas(self, n: int) -> Tensor:
        """n sigmas, descending, float32. ValueError for n < 1, or a rho so small that they overflow."""
        if n < 1:
            raise ValueError(f"n is {n}; a grid of noise levels has at least 1")
        ramp = torch.linspace(0, 1, n, dtype=torch.float32)
        start: float = self.sigma_max ** (1 / self.rho)
        end: float = self.sigma_min ** (1 / self.rho)
        sigmas = (start + ramp * (end - start)) ** self.rho
        if not bool(sigmas.isfinite().all() and (sigmas > 0).all()):
            raise ValueError(f"rho {self.rho} gives sigmas that float32 cannot hold; 7 is usual, 1 is an even grid")
        return sigmas


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
        betas = torch.linspace(linear_start**0.5, linear_end**0.5, num_timesteps, dtype=torch.float64) ** 2
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


class Img2ImgDiscretization(Discretization):
    """The low end of a grid: image to image, from an image with some noise to an image without.

    Meng et al. 2021, arXiv:2108.01073. The start is x0 + sigma * noise with the highest level that is left; the
    schedule has about strength * n of the n steps, and at least one.

    Args:
        discretization: the whole grid.
        strength: share of the schedule that is kept. 1 keeps all, 0 leaves no step and the image as it is.

    Raises:
        ValueError: strength is not between 0 and 1.
    """

    def __init__(self, discretization: Discretization, strength: Annotated[float, Ge(0), Le(1)] = 1.0) -> None:
        _check_strength(strength)
        self.discretization = discretization
        self.strength = strength

    def sigmas(self, n: int) -> Tensor:
        """Of the n sigmas the lowest, descending, float32; all of them at strength 1."""
        whole = self.discretization.sigmas(n)
        return whole[len(whole) - share(self.strength, len(whole)) :]


class Txt2NoisyDiscretization(Discretization):
    """The high end of a grid: what is left of the noise is for another model, a refiner, to remove.

    Podell et al. 2023, arXiv:2307.01952, section 2.5. The schedule ends above 0, at the level where
    `Img2ImgDiscretization` with the same strength begins.

    Args:
        discretization: the whole grid.
        strength: share of the schedule that is left out at its low end, at least one step. 0 leaves out none.
        original_steps: steps that this is a share of; by default those of the grid.

    Raises:
        ValueError: strength is not between 0 and 1.
    """

    def __init__(
        self,
        discretization: Discretization,
        strength: Annotated[float, Ge(0), Le(1)] = 0.0,
        original_steps: Annotated[int, Ge(1)] | None = None,
    ) -> None:
        _check_strength(strength)
        self.discretization = discretization
        self.strength = strength
        self.original_steps = original_steps

    def __call__(self, n: int) -> Tensor:
        """The schedule without its low end. ValueError if no step is left of it, unless strength is 1."""
        whole = self.discretization(n)
        steps = len(whole) - 1
        left_out = share(self.strength, steps if self.original_steps is None else self.original_steps)
        if left_out > steps or (left_out == steps and 0 < self.strength < 1):
            of = "" if self.original_steps is None else f" of original_steps {self.original_steps}"
            raise ValueError(
                f"strength {self.strength}{of} leaves out {left_out} steps, and the schedule has {steps}; "
                "more steps work, or a smaller strength"
            )
        return whole[: len(whole) - left_out]

    def sigmas(self, n: int) -> Tensor:
        """Of the n sigmas the highest, descending, float32; all of them at strength 0."""
        schedule = self(n)
        return schedule[schedule > 0]


def share(strength: float, steps: int) -> int:
    """How many of the steps a share of the schedule is: rounded down, but at least one for a share above 0."""
    levels = int(strength * (steps + 1))  # as the ancestor counts: the final zero is a level, too
    return max(levels - 1, 1 if strength > 0 else 0)


def _check_strength(strength: float) -> None:
    if not 0 <= strength <= 1:
        raise ValueError(f"strength is {strength}; it is a share of the schedule, from 0 to 1")


def sigma_table(discretization: Discretization, num_idx: int, append_zero: bool = False, flip: bool = True) -> Tensor:
    """The noise levels of a discrete process by index, float32.

    Args:
        discretization: the grid.
        num_idx: levels asked of it.
        append_zero: one more level, sigma = 0.
        flip: index 0 is the lowest level (as timesteps are counted), not the highest.
    """
    sigmas = discretization.sigmas(num_idx)
    if append_zero:
        sigmas = torch.cat([sigmas, sigmas.new_zeros(1)])
    return sigmas.flip(0) if flip else sigmas
