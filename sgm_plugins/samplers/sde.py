"""The step of the samplers of the reverse SDE, for a constant estimate."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sgm_plugins.samplers.brownian import BrownianPath
from sgm_plugins.samplers.ode import ode_step


def log_step(sigma: float, sigma_next: float) -> float:
    """h = ln(sigma / sigma_next), infinite from pure noise."""
    return math.inf if math.isinf(sigma) else math.log(sigma / sigma_next)


def sde_step(x: Tensor, D_x: Tensor, sigma: float, sigma_next: float, eta: float) -> Tensor:
    """The mean of x at sigma_next > 0: D + exp(-(1 + eta) h) (x - D), h = ln(sigma / sigma_next).

    The SDE whose noise eta scales, dx = -(1 + eta) (x - D) dh + sigma sqrt(2 eta) dW, is linear but for D. eta = 0 is
    `ode_step`, eta = 1 the mean of the posterior q(x_next | x, x0). From pure noise nothing of x is left if eta > 0.
    """
    if eta == 0:
        return ode_step(x, D_x, sigma, sigma_next)
    return torch.lerp(D_x, x, (sigma_next / sigma) ** (1 + eta)) if math.isfinite(sigma) else D_x


def add_noise(
    x: Tensor, path: BrownianPath | None, sigma: float, sigma_next: float, eta: float, s_noise: float
) -> Tensor:
    """x with the noise of that SDE: of deviation s_noise sigma_next sqrt(1 - exp(-2 eta h)). None where there is no
    path."""
    if path is None:
        return x
    h = log_step(sigma, sigma_next)
    return path.add(x, sigma, sigma_next, s_noise * sigma_next * math.sqrt(-math.expm1(-2 * eta * h)))
