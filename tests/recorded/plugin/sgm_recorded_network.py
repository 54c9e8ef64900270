"""A network of 2,000 weights, so that recorded checkpoints are small."""

import torch
from torch import Tensor, nn


class TinyNetwork(nn.Module):
    """Two convolutions, modulated by the noise level and by a vector or the mean of the tokens.

    Args:
        channels: of the images or latents.
        condition: width of the vector, or of a token.
        width: channels inside.
    """

    def __init__(self, channels: int, condition: int, width: int = 12) -> None:
        super().__init__()
        self.into = nn.Conv2d(channels, width, 3, padding=1)
        self.modulate = nn.Linear(condition + 2, width)
        self.dropout = nn.Dropout(0.1)
        self.middle = nn.Conv2d(width, width, 3, padding=1)
        self.out = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        given = context.mean(1) if y is None else y  # type: ignore[union-attr]
        level = torch.stack([timesteps.sin(), timesteps.cos()], 1)
        hidden = self.into(x) + self.modulate(torch.cat([given, level], 1))[:, :, None, None]
        return self.out(self.middle(self.dropout(hidden.tanh())).tanh())
