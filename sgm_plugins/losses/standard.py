"""The training objective of denoising diffusion."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from sgm_core.conditioning import Conditioning
from sgm_core.randomness import Generators, randn, randn_like
from sgm_core.roles import Denoise, Loss, SigmaSampler, Weighting
from sgm_plugins.broadcast import append_dims, noised
from sgm_plugins.perceptual.lpips import LPIPS


class StandardLoss(Loss):
    """lambda(sigma) * mean |D(x + sigma * noise; sigma) - x|^2: Karras et al. 2022, arXiv:2206.00364, eq. 2 and 8.

    Draws sigma, then the noise, then the offset noise. Sigma, the weight and the error are float32 (float64 for such
    an x): in half precision the weight of a low sigma overflows.

    Args:
        sigma_sampler: p(sigma).
        weighting: lambda(sigma).
        loss_type: squared (l2) or absolute (l1) error, or a perceptual distance of images (lpips) in their place,
            weighted like them.
        perceptual: that distance. From a config, the arguments of `LPIPS`; from Python, any module from the estimate
            and x to (b,).
        offset_noise_level: standard deviation, relative to the noise, of a further noise that is constant over the
            grid of each channel, so that the model learns to change the mean brightness.
            https://www.crosslabs.org/blog/diffusion-with-offset-noise

    Raises:
        ValueError: an unknown loss_type; a perceptual distance without the loss_type that uses it, or the other way
            round.
    """

    def __init__(
        self,
        sigma_sampler: SigmaSampler,
        weighting: Weighting,
        loss_type: Literal["l2", "l1", "lpips"] = "l2",
        offset_noise_level: Annotated[float, Ge(0)] = 0.0,
        perceptual: LPIPS | nn.Module | None = None,
    ) -> None:
        super().__init__()
        if loss_type not in ("l2", "l1", "lpips"):
            raise ValueError(f"loss_type is {loss_type!r}; 'l2', 'l1' and 'lpips' work")
        if (loss_type == "lpips") != (perceptual is not None):
            raise ValueError(
                "loss_type is 'lpips' and no perceptual is given; 'lpips' needs one, with the keys features and heads"
                if perceptual is None
                else f"loss_type is '{loss_type}' and a perceptual is given, which 'lpips' alone uses"
            )
        self.sigma_sampler: SigmaSampler = sigma_sampler
        self.weighting = weighting
        self.loss_type = loss_type
        self.offset_noise_level = offset_noise_level
        self.perceptual = perceptual

    def forward(
        self,
        denoise: Denoise,
        x: Tensor,
        cond: Conditioning,
        generator: Generators = None,
        sigma: Tensor | None = None,
    ) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        if sigma is None:
            assert generator is None or isinstance(generator, torch.Generator)
            sigma = self.sigma_sampler.for_shape(x.shape)(len(x), generator=generator, device=x.device)
        sigma = sigma.to(dtype)
        noise = randn_like(x, generator).to(dtype)
        if self.offset_noise_level > 0:
            offset = randn(x.shape[:2], generator, like=x.new_empty(0, dtype=torch.float32))  # (b, c)
            noise = noise + self.offset_noise_level * append_dims(offset, x)
        x_sigma = noised(x, noise, sigma).to(x.dtype)
        return self.weighting(sigma) * self._error(denoise(x_sigma, sigma, cond).to(dtype), x.to(dtype))

    def _error(self, D_x: Tensor, x: Tensor) -> Tensor:
        """How far the estimate is off, (b,)."""
        if self.perceptual is not None:
            distance: Tensor = self.perceptual(D_x, x)
            return distance
        error = (D_x - x).square() if self.loss_type == "l2" else (D_x - x).abs()
        return error.flatten(1).mean(dim=1)
