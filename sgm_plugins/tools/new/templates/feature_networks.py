"""Edges as features."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional


class ExampleFeatureNetwork(nn.Module):
    """Differences of neighbouring pixels, of the image and of smaller copies of it. Nothing is learned.

    Args:
        scales: how many sizes, each half of the one before.
    """

    def __init__(self, scales: Annotated[int, Ge(1)] = 3) -> None:
        super().__init__()
        self.scales = scales

    def forward(self, images: Tensor) -> list[Tensor]:
        """(b, c, h, w) in [-1, 1] -> for each scale k (b, 2 * c, h / 2^k - 1, w / 2^k - 1)."""
        features = []
        for k in range(self.scales):
            x = functional.avg_pool2d(images, 2**k)
            down, right = x[..., 1:, :-1] - x[..., :-1, :-1], x[..., :-1, 1:] - x[..., :-1, :-1]
            features.append(torch.cat([down, right], dim=1))
        return features
