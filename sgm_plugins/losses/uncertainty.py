"""A loss whose levels are weighed by a learned uncertainty."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor, nn

from sgm_core.conditioning import Conditioning
from sgm_core.randomness import Generators
from sgm_core.roles import Denoise, Loss, SigmaSampler

FURTHEST = 10.0
"""The largest |ln(sigma)| / 4 that the head tells apart: sigma = 0 and inf have the features of these ends."""


class UncertaintyLoss(Loss):
    """l / exp(u) + u with l another loss of a sample, and u(sigma) a small head that is trained with the model.

    Karras et al. 2024, arXiv:2312.02696, after Kendall et al. 2018, arXiv:1705.07115. For a given level it
    is least at u = ln E[l]: then all levels contribute alike to the gradient, whatever their weight in l.

    This number is what is trained, logged (`loss`, `loss/sigma_*`) and validated (`val_loss`). At the optimum it is
    1 + ln E[l] at each level, so it falls as l does and may be negative. At first u is 0, and it is l.

    Args:
        loss: l, with a sigma_sampler.
        channels: width of the head.

    Raises:
        ValueError: a loss without a sigma_sampler, whose levels are not known.
    """

    def __init__(self, loss: Loss, channels: Annotated[int, Ge(1)] = 128) -> None:
        super().__init__()
        if loss.sigma_sampler is None:
            raise ValueError(
                f"loss is a {type(loss).__name__} without a sigma_sampler, so its noise levels are not known"
            )
        self.loss = loss
        self.head = Uncertainty(channels)

    @property
    def sigma_sampler(self) -> SigmaSampler | None:  # type: ignore[override]
        """That of the inner loss."""
        return self.loss.sigma_sampler

    @property
    def input_keys(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of the inner loss."""
        return self.loss.input_keys

    def forward(
        self,
        denoise: Denoise,
        x: Tensor,
        cond: Conditioning,
        generator: Generators = None,
        sigma: Tensor | None = None,
        batch: Mapping[str, Any] | None = None,
    ) -> Tensor:
        if sigma is None:
            assert self.sigma_sampler is not None
            assert generator is None or isinstance(generator, torch.Generator)
            sigma = self.sigma_sampler.for_shape(x.shape)(len(x), generator=generator, device=x.device)
        read = {} if batch is None else {"batch": batch}
        losses: Tensor = self.loss(denoise, x, cond, generator, sigma=sigma, **read)
        u: Tensor = self.head(sigma.to(losses.dtype))
        return losses * (-u).exp() + u


class Uncertainty(nn.Module):
    """u of sigma: a linear map, at first 0, of Fourier features of c_noise = ln(sigma) / 4.

    Args:
        channels: features; their frequencies are spread as a normal distribution, with a phase each.

    Attributes:
        keys_optional: a checkpoint of a model without a head fits; the head then starts at 0.
    """

    keys_optional = True

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels))

    def forward(self, sigma: Tensor) -> Tensor:
        """sigma (b,), 0 and inf too -> (b,), float32 at least."""
        dtype = torch.promote_types(sigma.dtype, torch.float32)
        c_noise = (sigma.to(dtype).log() / 4).clamp(-FURTHEST, FURTHEST)
        index = torch.arange(len(self.weight), dtype=dtype, device=sigma.device) + 0.5
        frequencies: Tensor = torch.special.ndtri(index / len(index))
        phases = index * ((5**0.5 - 1) / 2)  # steps of the golden ratio: no two features share one
        features = 2**0.5 * (2 * math.pi * (c_noise[:, None] * frequencies + phases)).cos()  # of unit mean square
        # no matrix product: autocast would round it, and exp(u) with it
        return (features * self.weight.to(dtype)).sum(dim=1)
