"""The variational autoencoder's regularizer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sgm_core.randomness import Generators, randn_like
from sgm_core.roles import Regularizer
from sgm_core.shapes import Shape

LOG_VARIANCE = (-30.0, 20.0)
"""Limits, as in Rombach et al. 2022: no variance is zero or overflows."""


class GaussianRegularizer(Regularizer):
    """Latents from a Gaussian with a diagonal covariance, kept near the standard normal distribution.

    Kingma & Welling 2014, arXiv:1312.6114: z = mean + std * noise, and KL(N(mean, std^2) || N(0, 1)).

    Args:
        sample: draw the latents; otherwise they are the means.
    """

    def __init__(self, sample: bool = True) -> None:
        super().__init__()
        self.sample = sample

    @staticmethod
    def shapes(z: Shape | None) -> Shape | None:
        return None if z is None or z[0] is None else (z[0] // 2, *z[1:])

    def forward(self, z: Tensor, generator: Generators = None) -> tuple[Tensor, dict[str, Any]]:
        """Means and log variances (b, 2 * c, *grid) -> latents (b, c, *grid).

        The log has `kl_loss`, summed over a latent and averaged over the batch. Noise is drawn on the device and in
        the dtype of z; the divergence is computed in float32 at least.

        Raises:
            ValueError: an odd number of channels.
        """
        if z.shape[1] % 2:
            raise ValueError(f"{z.shape[1]} channels are no means and log variances; give an even number (double_z)")
        mean, log_variance = z.chunk(2, dim=1)
        log_variance = log_variance.clamp(*LOG_VARIANCE)
        latents = mean + (0.5 * log_variance).exp() * randn_like(mean, generator) if self.sample else mean
        precise = torch.promote_types(z.dtype, torch.float32)
        mean, log_variance = mean.to(precise), log_variance.to(precise)
        kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).flatten(1).sum(1)  # (b,)
        return latents, {"kl_loss": kl.mean()}
