"""A small image with a little noise, for a model that enlarges it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, cast

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn.functional import interpolate

from sgm_core.randomness import randint, randn_like
from sgm_core.roles import Discretization, Embedder, FirstStage
from sgm_core.shapes import Shape, as_list
from sgm_core.slots import describe
from sgm_plugins.broadcast import append_dims
from sgm_plugins.sigma_samplers import DiscreteSigmaSampler


class LowScaleEmbedder(nn.Module):
    """The noisy latents of an image, and how noisy they are: conditioning augmentation of cascaded models.

    Ho et al. 2022, arXiv:2106.15282, section 3; with latents, the upscalers of Rombach et al. 2022, arXiv:2112.10752.
    Each sample has a level t, uniform in 0..max_noise_level-1 of a discrete process that keeps the variance:
    sqrt(abar) z + sqrt(1 - abar) noise, where abar = 1 / (1 + sigma_t^2). Two outputs: the latents (b, c, h, w), rank
    4, to `concat`; the level, rank 2, to `vector`.

    Levels and noise are each sample's own in training; in sampling they come from torch's global random state.

    Args:
        first_stage: images to latents.
        discretization: the noise levels of the process.
        num_levels: how many levels it has.
        max_noise_level: the lowest so many levels are drawn.
        output_size: the latents are brought to this height and width, by nearest neighbours; None leaves them.
        scale_factor: multiplies the latents, before the noise.
        level_embedder: embeds the level, (b,) float32, into the vector (b, d); without one the vector is the level
            itself, (b, 1), as networks with `num_classes` "timestep" take it.

    Raises:
        ValueError: more levels are drawn than there are.
    """

    def __init__(
        self,
        first_stage: FirstStage,
        discretization: Discretization,
        num_levels: Annotated[int, Ge(1)] = 1000,
        max_noise_level: Annotated[int, Ge(1)] = 250,
        output_size: Annotated[int, Ge(1)] | None = 64,
        scale_factor: float = 1.0,
        level_embedder: Embedder | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= max_noise_level <= num_levels:
            raise ValueError(f"max_noise_level is {max_noise_level}; num_levels, {num_levels}, is the most there are")
        self.first_stage = first_stage
        self.levels = DiscreteSigmaSampler(discretization, num_levels)
        self.max_noise_level = max_noise_level
        self.output_size = output_size
        self.scale_factor = scale_factor
        self.level_embedder = cast("nn.Module | None", level_embedder)

    @staticmethod
    def shapes(
        image: Shape | None,
        *,
        first_stage: Callable[..., Shape | None],
        output_size: int | None,
        level_embedder: Callable[..., Shape | list[Shape] | None] | None,
    ) -> list[Shape]:
        z = first_stage(image) or (None, None, None)
        if output_size is not None:
            z = (z[0], output_size, output_size)
        vectors: list[Shape] | None = [(1,)] if level_embedder is None else as_list(level_embedder(()))
        return [z, vectors[0] if vectors else (None,)]

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Images (b, c, h, w) in [-1, 1] -> noisy latents (b, c', h', w') and the vector of their levels (b, d)."""
        z = self.scale_factor * self.first_stage.encode(image)
        level = randint(self.max_noise_level, (len(z),), device=z.device)
        sigma = append_dims(self.levels(len(z), rand=level, device=z.device), z)
        z = ((z + sigma * randn_like(z)) / torch.sqrt(1 + sigma**2)).to(z.dtype)
        if self.output_size is not None:
            z = interpolate(z, size=self.output_size, mode="nearest")
        level = level.float()
        return z, level[:, None] if self.level_embedder is None else self.level_embedder(level)

    def check(self, image: Tensor) -> None:
        """Raise ValueError for what is no batch of images."""
        if not isinstance(image, Tensor) or not image.is_floating_point() or image.ndim != 4:
            raise ValueError(f"the image is {describe(image)}; a floating-point tensor (b, c, h, w) can be encoded")
