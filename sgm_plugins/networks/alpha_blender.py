"""How the layers of a video network are mixed with those of the image network that it grew from."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

MergeStrategy = Literal["fixed", "learned", "learned_with_images"]
"""The weight of the image layers is the merge factor itself, or is learned as its sigmoid, or is learned and 1 for
rows that are single images."""


class AlphaBlender(nn.Module):
    """a * spatial + (1 - a) * temporal. Blattmann et al. 2023, arXiv:2304.08818, section 3.1.

    Args:
        merge_strategy: what a is.
        merge_factor: a if fixed, otherwise what a starts as the sigmoid of.

    Raises:
        ValueError: an unknown strategy, or a fixed weight outside of [0, 1].
    """

    mix_factor: Tensor

    def __init__(self, merge_strategy: MergeStrategy, merge_factor: float) -> None:
        super().__init__()
        if merge_strategy not in ("fixed", "learned", "learned_with_images"):
            raise ValueError(f"merge_strategy is {merge_strategy!r}; known: 'fixed', 'learned', 'learned_with_images'")
        if merge_strategy == "fixed" and not 0 <= merge_factor <= 1:
            raise ValueError(f"merge_factor is {merge_factor}; as a fixed weight it is in [0, 1]")
        self.merge_strategy = merge_strategy
        factor = torch.tensor([float(merge_factor)])
        if merge_strategy == "fixed":
            self.register_buffer("mix_factor", factor)
        else:
            self.mix_factor = nn.Parameter(factor)

    def forward(self, spatial: Tensor, temporal: Tensor, image_only: Tensor | None = None) -> Tensor:
        """spatial, temporal (rows, ...), image_only (rows,) bool -> (rows, ...). Only "learned_with_images" looks at
        image_only."""
        alpha = self.mix_factor if self.merge_strategy == "fixed" else self.mix_factor.sigmoid()
        alpha = alpha.to(spatial.dtype)
        if self.merge_strategy == "learned_with_images" and image_only is not None:
            alpha = torch.where(image_only, 1, alpha).reshape(-1, *[1] * (spatial.ndim - 1))
        return alpha * spatial + (1 - alpha) * temporal
