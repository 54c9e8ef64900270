"""The step that the samplers of the probability-flow ODE are made of."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def ode_step(x: Tensor, D_x: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """From sigma to sigma_next with a constant estimate D of x0: what is not D shrinks as sigma does. One kernel.

    D + sigma_next / sigma * (x - D) solves dx / dsigma = (x - D) / sigma, Karras et al. 2022, arXiv:2206.00364, eq. 1
    and 3. It is a step of Euler's method, x + (sigma_next - sigma) * d with d = (x - D) / sigma, of DDIM (Song et al.
    2020, arXiv:2010.02502, eq. 12), and of DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095), where h is
    ln(sigma / sigma_next).

    Args:
        x: at noise level sigma.
        D_x: the estimate of x0, like x.
        sigma, sigma_next: levels, sigma > 0; sigma_next = 0 gives D. At sigma = inf, where x is the noise itself, the
            step is D + sigma_next * x.
    """
    if math.isinf(sigma):
        return torch.add(D_x, x, alpha=sigma_next)
    return torch.lerp(D_x, x, sigma_next / sigma)
