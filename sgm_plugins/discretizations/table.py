"""What grids share: their number of levels, times for sigmas, the table of a discrete process."""

from __future__ import annotations

import torch
from torch import Tensor

from sgm_core.roles import Discretization


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


def sigma_of(signal: Tensor) -> Tensor:
    """sigma, float32, for the share of the signal 1 - t, float64: inf where that is 0."""
    return ((1 - signal) / signal).float()


def signal_of(sigmas: Tensor) -> Tensor:
    """The share of the signal 1 - t = 1 / (1 + sigma), float64: 0 at sigma = inf."""
    return 1 / (1 + sigmas.double())


def check_number(n: int) -> None:
    """ValueError for a number of levels below 1."""
    if n < 1:
        raise ValueError(f"n is {n}; a grid of noise levels has at least 1")
