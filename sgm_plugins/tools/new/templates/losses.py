"""A training objective."""

from __future__ import annotations

import torch
from sgm_core.conditioning import Conditioning
from sgm_core.randomness import Generators, randn_like
from sgm_core.roles import Denoise, Loss, SigmaSampler
from torch import Tensor


class ExampleLoss(Loss):
    """mean |D(x + sigma * noise; sigma) - x|, the absolute error, all noise levels alike.

    Args:
        sigma_sampler: p(sigma).
    """

    def __init__(self, sigma_sampler: SigmaSampler) -> None:
        super().__init__()
        self.sigma_sampler: SigmaSampler = sigma_sampler

    def forward(
        self,
        denoise: Denoise,
        x: Tensor,
        cond: Conditioning,
        generator: Generators = None,
        sigma: Tensor | None = None,
    ) -> Tensor:
        if sigma is None:
            assert generator is None or isinstance(generator, torch.Generator)
            sigma = self.sigma_sampler.for_shape(x.shape)(len(x), generator=generator, device=x.device)
        scale = sigma.view(-1, *(1 for _ in x.shape[1:]))
        noise = randn_like(x, generator)
        noisy = torch.where(scale.isinf(), noise, x + scale * noise).type_as(x)  # at sigma = inf it is the noise itself
        return (denoise(noisy, sigma, cond) - x).abs().flatten(1).mean(1)
