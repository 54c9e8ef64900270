"""A network of tokens: no U-Net."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TinyNetwork(nn.Module):
    """Mixes all pixels of an image with the prompt and the size.

    Args:
        width: of the hidden layers.
        blocks: how many of them.
    """

    def __init__(self, width: int = 24, blocks: int = 2) -> None:
        super().__init__()
        self.enter = nn.Linear(3, width)
        self.blocks = nn.ModuleList(nn.ModuleDict({"mix": nn.Linear(width, 2 * width)}) for _ in range(blocks))
        self.told = nn.Linear(width + 3, width)
        self.leave = nn.Linear(width, 3)

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        """x (b, 3, h, w), timesteps (b,), context (b, 1, width), y (b, 2) -> (b, 3, h, w)."""
        assert context is not None
        assert y is not None
        z = self.enter(x.permute(0, 2, 3, 1))
        level = timesteps.type_as(x)[:, None] / 1000
        z = z + self.told(torch.cat([context[:, 0], y / 32, level], dim=1))[:, None, None]
        for block in self.blocks:
            value, gate = block["mix"](z).chunk(2, dim=-1)
            z = z + value * torch.sigmoid(gate + z.mean((1, 2), keepdim=True))
        return self.leave(z).permute(0, 3, 1, 2)
