"""A grid as the table of a discrete process."""

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
