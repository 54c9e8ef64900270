"""Redrawing a part of an image."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import max_pool2d

from sgm_core.conditioning import Conditioning
from sgm_core.roles import Denoise


def keeping(denoise: Denoise, z0: Tensor, redrawn: Tensor) -> Denoise:
    """D(x; sigma, cond), except where the image is to stay: there the answer is known, z0.

    A sampler that starts from z0 + sigma * noise then keeps x = z0 + sigma * (unit noise) there at each of its levels,
    whatever its method: the network always sees the kept part with the noise that belongs to the level. The last step,
    to sigma = 0, gives z0.

    Args:
        denoise: the model's; it may be called with several copies of the batch, as guiders do.
        z0: latents of the image, (1, c, h, w).
        redrawn: 1 where it is redrawn, 0 where it stays, (1, 1, h, w).
    """

    def known(x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        return redrawn * denoise(x, sigma, cond) + (1 - redrawn) * z0

    return known


def latent_mask(mask: Tensor, factor: int) -> Tensor:
    """The cells of the latent grid that hold a pixel to be redrawn, (1, 1, h / factor, w / factor).

    Args:
        mask: of pixels, (h, w) bool.
        factor: pixels per side of a cell.
    """
    return max_pool2d(mask[None, None].float(), factor)
