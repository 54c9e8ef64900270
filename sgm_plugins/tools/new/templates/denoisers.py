"""A denoiser whose network gives the clean image itself."""

from __future__ import annotations

from sgm_core.conditioning import Conditioning
from sgm_core.roles import Denoiser, Preconditioned
from torch import Tensor


class ExampleDenoiser(Denoiser):
    """D(x; sigma) = F(x / sqrt(1 + sigma^2); ln(sigma) / 4), for data of unit variance."""

    def forward(self, network: Preconditioned, x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        scale = (1 + sigma**2).rsqrt().view(-1, *(1 for _ in x.shape[1:]))
        return network((scale * x).type_as(x), sigma.log() / 4, cond).type_as(x)
