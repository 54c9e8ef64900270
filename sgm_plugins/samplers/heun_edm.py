"""Heun's method on the probability-flow ODE, with optional churn."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from sgm_core.roles import Discretization, Guider, Sampler
from sgm_plugins.samplers.churn import Churn
from sgm_plugins.samplers.coordinate import Coordinate, in_coordinate
from sgm_plugins.samplers.ode import ode_step


class HeunEDMSampler(Sampler):
    """Karras et al. 2022, arXiv:2206.00364, algorithm 2: second order, two evaluations per step but the last.

    A step from sigma = inf is Euler's too: no line in sigma leads there. Flow models want `coordinate: t`, in which
    pure noise is a level like others.

    Args:
        discretization: the noise levels.
        num_steps: steps unless the call says otherwise.
        guider: none means the plain denoiser.
        s_churn: noise added back over all steps together; 0 is deterministic.
        s_tmin, s_tmax: noise levels between which it is added.
        s_noise: its standard deviation.
        coordinate: the variable in which slopes are averaged; t is sigma / (1 + sigma), the time of flow models.

    Raises:
        ValueError: churn, which is defined in sigma, with another coordinate.
    """

    def __init__(
        self,
        discretization: Discretization,
        num_steps: Annotated[int, Ge(1)] | None = None,
        guider: Guider | None = None,
        s_churn: Annotated[float, Ge(0)] = 0.0,
        s_tmin: Annotated[float, Ge(0)] = 0.0,
        s_tmax: Annotated[float, Ge(0)] = math.inf,
        s_noise: Annotated[float, Ge(0)] = 1.0,
        coordinate: Coordinate = "sigma",
    ) -> None:
        if s_churn > 0 and coordinate != "sigma":
            raise ValueError(
                f"s_churn is {s_churn}, and churn raises sigma: coordinate {coordinate!r} works with s_churn 0, "
                "and s_churn with coordinate 'sigma'"
            )
        super().__init__(discretization, num_steps, guider)
        self.coordinate = coordinate
        self.churn = Churn(s_churn, s_tmin, s_tmax, s_noise)

    def integrate(
        self,
        D: Callable[[Tensor, float], Tensor],
        x: Tensor,
        sigmas: list[float],
        noise: Callable[[], Tensor],
        report: Callable[[int], None],
    ) -> Tensor:
        self.churn.check(sigmas)
        D, x, levels, back = in_coordinate(self.coordinate, D, x, sigmas)
        for i, (sigma, sigma_next) in enumerate(pairwise(levels)):
            x, sigma = self.churn(x, sigma, len(sigmas) - 1, noise)
            x_next = ode_step(x, D(x, sigma), sigma, sigma_next)
            if sigma_next > 0 and math.isfinite(sigma):  # there is no slope at 0, so the last step stays Euler's
                noise_next = x_next - D(x_next, sigma_next)  # sigma_next * d'
                x_again = torch.add(x, noise_next, alpha=1 - sigma / sigma_next)  # Euler's step with the slope d'
                x_next = torch.lerp(x_next, x_again, 0.5)  # that is x + (sigma_next - sigma) * (d + d') / 2
            x = x_next
            report(i)
        return back(x)
