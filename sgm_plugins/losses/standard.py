"""The training objective of denoising diffusion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from sgm_core.conditioning import Conditioning
from sgm_core.randomness import Generators, randn, randn_like
from sgm_core.roles import Denoise, Loss, SigmaSampler, Weighting
from sgm_plugins.broadcast import append_dims, noised
from sgm_plugins.perceptual.lpips import LPIPS
from sgm_plugins.sigma_samplers.wrapping import take_losses

LOSS_TYPES = ("l2", "l1", "huber", "lpips")


class StandardLoss(Loss):
    """lambda(sigma) * mean |D(x + sigma * noise; sigma) - x|^2: Karras et al. 2022, arXiv:2206.00364, eq. 2 and 8.

    Draws sigma, then the noise, then the offset noise. Sigma, the weight and the error are float32 (float64 for such
    an x): in half precision the weight of a low sigma overflows.

    Args:
        sigma_sampler: p(sigma).
        weighting: lambda(sigma).
        loss_type: squared (l2) or absolute (l1) error, the pseudo-Huber function of e = sqrt(lambda) (D - x), which is
            c^2 (sqrt(1 + e^2 / c^2) - 1), squared for small errors and absolute for large ones (huber: Khrapov et al.
            2024, arXiv:2403.16728), or a perceptual distance of images (lpips) in their place, weighted like them.
        perceptual: that distance. From a config, the arguments of `LPIPS`; from Python, any module from the estimate
            and x to (b,).
        offset_noise_level: standard deviation, relative to the noise, of a further noise that is constant over the
            grid of each channel, so that the model learns to change the mean brightness.
            https://www.crosslabs.org/blog/diffusion-with-offset-noise
        huber_c: c of huber, above 0, in units of e.
        huber_schedule: c by noise level. snr: from 1 at sigma = 0 down to huber_c, c = huber_c + (1 - huber_c) /
            (1 + sigma)^2. exponential: the same ends, c = huber_c^t with t = sigma / (1 + sigma). constant: huber_c.
        mask: the batch entry with the weight of each pixel, (b, 1, h, w) from 0 to 1, of the size of the images. It is
            shrunk to the latents by area mean m; a sample's loss is sum(m error) / sum(m), 0 where m is 0 throughout.

    Raises:
        ValueError: an unknown loss_type; a perceptual distance or huber's options without the loss_type that uses them,
            or the other way round; a mask for lpips. When called, a mask of another form.
    """

    def __init__(
        self,
        sigma_sampler: SigmaSampler,
        weighting: Weighting,
        loss_type: Literal["l2", "l1", "huber", "lpips"] = "l2",
        offset_noise_level: Annotated[float, Ge(0)] = 0.0,
        perceptual: LPIPS | nn.Module | None = None,
        huber_c: Annotated[float, Gt(0)] = 0.1,
        huber_schedule: Literal["snr", "exponential", "constant"] = "snr",
        mask: str | None = None,
    ) -> None:
        super().__init__()
        if loss_type not in LOSS_TYPES:
            raise ValueError(f"loss_type is {loss_type!r}; {', '.join(map(repr, LOSS_TYPES))} work")
        if (loss_type == "lpips") != (perceptual is not None):
            raise ValueError(
                "loss_type is 'lpips' and no perceptual is given; 'lpips' needs one, with the keys features and heads"
                if perceptual is None
                else f"loss_type is '{loss_type}' and a perceptual is given, which 'lpips' alone uses"
            )
        if not huber_c > 0:
            raise ValueError(f"huber_c is {huber_c}; a number above 0 works, 0.1 is usual")
        if huber_schedule not in ("snr", "exponential", "constant"):
            raise ValueError(f"huber_schedule is {huber_schedule!r}; 'snr', 'exponential' and 'constant' work")
        if loss_type != "huber" and (huber_c, huber_schedule) != (0.1, "snr"):
            raise ValueError(f"huber_c or huber_schedule is given and loss_type is '{loss_type}'; 'huber' uses them")
        if mask is not None and loss_type == "lpips":
            raise ValueError(
                "mask weights pixels, and 'lpips' compares whole images; 'l2', 'l1' and 'huber' take a mask"
            )
        self.sigma_sampler: SigmaSampler = sigma_sampler
        self.measured: nn.Module | None = getattr(sigma_sampler, "measured", None)  # what p(sigma) learns
        self.weighting = weighting
        self.loss_type = loss_type
        self.offset_noise_level = offset_noise_level
        self.perceptual = perceptual
        self.huber_c = huber_c
        self.huber_schedule = huber_schedule
        self.mask = mask
        self.input_keys: tuple[str, ...] = () if mask is None else (mask,)

    def forward(
        self,
        denoise: Denoise,
        x: Tensor,
        cond: Conditioning,
        generator: Generators = None,
        sigma: Tensor | None = None,
        batch: Mapping[str, Any] | None = None,
    ) -> Tensor:
        m = None if self.mask is None else self._mask({} if batch is None else batch, x)
        dtype = torch.promote_types(x.dtype, torch.float32)
        law = self.sigma_sampler.for_shape(x.shape)
        if sigma is None:
            assert generator is None or isinstance(generator, torch.Generator)
            sigma = law(len(x), generator=generator, device=x.device)
        sigma = sigma.to(dtype)
        noise = randn_like(x, generator).to(dtype)
        if self.offset_noise_level > 0:
            offset = randn(x.shape[:2], generator, like=x.new_empty(0, dtype=torch.float32))  # (b, c)
            noise = noise + self.offset_noise_level * append_dims(offset, x)
        x_sigma = noised(x, noise, sigma).to(x.dtype)
        losses = self._losses(denoise(x_sigma, sigma, cond).to(dtype), x.to(dtype), sigma, m)
        return take_losses(law, sigma, losses)

    def _losses(self, D_x: Tensor, x: Tensor, sigma: Tensor, m: Tensor | None) -> Tensor:
        """How far the estimate is off, weighted, (b,)."""
        weight = self.weighting(sigma)
        if self.loss_type == "huber":
            e2 = append_dims(weight, x) * (D_x - x).square()
            # c^2 (sqrt(1 + e^2 / c^2) - 1), without cancellation where e is small
            return _mean(e2 / ((1 + e2 / append_dims(self._c(sigma), x).square()).sqrt() + 1), m)
        if self.perceptual is not None:
            distance: Tensor = self.perceptual(D_x, x)
            return weight * distance
        return weight * _mean((D_x - x).square() if self.loss_type == "l2" else (D_x - x).abs(), m)

    def _c(self, sigma: Tensor) -> Tensor:
        """c of huber, like sigma (b,)."""
        if self.huber_schedule == "snr":
            return self.huber_c + (1 - self.huber_c) / (1 + sigma) ** 2
        if self.huber_schedule == "exponential":
            return self.huber_c ** (1 / (1 + 1 / sigma))  # t, with its limits
        return torch.full_like(sigma, self.huber_c)

    def _mask(self, batch: Mapping[str, Any], x: Tensor) -> Tensor:
        """The mask of a batch, shrunk to the grid of x, (b, 1, h, w)."""
        m = batch.get(self.mask or "")
        form = f"loss_fn.mask: the batch entry '{self.mask}'"
        works = f"weights (b, 1, h, w) of the images work, here ({len(x)}, 1, h, w), floats from 0 to 1 or booleans"
        if not isinstance(m, Tensor):
            raise ValueError(f"{form} is {'missing' if m is None else f'a {type(m).__name__}'}; {works}")
        if (
            m.ndim != 4
            or x.ndim != 4
            or m.shape[:2] != (len(x), 1)
            or not (m.is_floating_point() or m.dtype == torch.bool)
        ):
            raise ValueError(f"{form} is {m.dtype} {tuple(m.shape)} for latents {tuple(x.shape)}; {works}")
        down = [size / latent for size, latent in zip(m.shape[2:], x.shape[2:], strict=True)]
        if min(down) < 1 or round(down[0]) != round(down[1]):
            raise ValueError(f"{form} is {tuple(m.shape)} for latents {tuple(x.shape)}, of another shape; {works}")
        m = m.to(torch.promote_types(x.dtype, torch.float32))
        if m.device.type == "cpu" and not ((m >= 0) & (m <= 1)).all():  # elsewhere looking would wait for the device
            raise ValueError(f"{form} has values from {m.min():.3g} to {m.max():.3g}; {works}")
        return adaptive_avg_pool2d(m.to(x.device), (x.shape[2], x.shape[3]))


def _mean(error: Tensor, m: Tensor | None) -> Tensor:
    """The mean of each sample, (b,), weighted by a mask (b, 1, h, w), if there is one."""
    if m is None:
        return error.flatten(1).mean(dim=1)
    total = m.expand_as(error).flatten(1).sum(dim=1)
    return (m * error).flatten(1).sum(dim=1) / torch.where(total > 0, total, 1)
