"""DPM-Solver++(3M) for the reverse SDE."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from sgm_core.roles import Discretization, Guider, Sampler
from sgm_plugins.samplers.brownian import BrownianPath
from sgm_plugins.samplers.sde import add_noise, log_step, sde_step


class DPMPP3MSDESampler(Sampler):
    """DPM-Solver++(3M) SDE of k-diffusion, after Lu et al. 2022, arXiv:2211.01095: one evaluation per step.

    D is extrapolated from the last three estimates. The second step has two and equals `dpmpp_2m_sde` with "heun". As
    in k-diffusion, the second difference has half the weight that a parabola would need. So without noise it has
    order 2. The noise is that of a Brownian path, see `dpmpp_2m_sde`. A step to 0 gives D.

    Args:
        discretization: the noise levels.
        num_steps: steps unless the call says otherwise.
        guider: none means the plain denoiser.
        eta: how much noise is added: of deviation sigma' sqrt(1 - exp(-2 eta h)) in a step; 0 adds none and draws none.
        s_noise: factor of that noise; below 1, samples get smoother.
    """

    def __init__(
        self,
        discretization: Discretization,
        num_steps: Annotated[int, Ge(1)] | None = None,
        guider: Guider | None = None,
        eta: Annotated[float, Ge(0)] = 1.0,
        s_noise: Annotated[float, Ge(0)] = 1.0,
    ) -> None:
        super().__init__(discretization, num_steps, guider)
        self.eta = eta
        self.s_noise = s_noise

    def integrate(
        self,
        D: Callable[[Tensor, float], Tensor],
        x: Tensor,
        sigmas: list[float],
        noise: Callable[[], Tensor],
        report: Callable[[int], None],
    ) -> Tensor:
        path = BrownianPath(noise(), sigmas) if self.eta > 0 else None
        past: list[tuple[Tensor, float]] = []  # estimates and the steps h that began there, newest first
        for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
            D_x = D(x, sigma)
            if sigma_next == 0:
                x = D_x
            else:
                h = log_step(sigma, sigma_next)
                x = sde_step(x, D_x, sigma, sigma_next, self.eta)
                D_newer = D_x
                for weight, (D_older, _) in zip(self.weights(h, [h for _, h in past]), past, strict=True):
                    x = torch.add(x, D_newer - D_older, alpha=weight)
                    D_newer = D_older
                x = add_noise(x, path, sigma, sigma_next, self.eta, self.s_noise)
                past = [(D_x, h), *past[:1]]
            report(i)
        return x

    def weights(self, h: float, past: list[float]) -> list[float]:
        """Of the differences between estimates, newest first, in a step h after the steps `past`."""
        total = (1 + self.eta) * h
        if not past:
            return []
        phi_2 = math.expm1(-total) / total + 1
        r_0 = past[0] / h
        if len(past) == 1:
            return [phi_2 / r_0]
        r_1 = past[1] / h
        phi_3 = phi_2 / total - 0.5
        # d1 = d1_0 + (d1_0 - d1_1) r_0 / (r_0 + r_1) and d2 = (d1_0 - d1_1) / (r_0 + r_1) count phi_2 and -phi_3
        rise = (phi_2 * r_0 - phi_3) / (r_0 + r_1)
        return [(phi_2 + rise) / r_0, -rise / r_1]
