import torch
from torch import Tensor, nn


class FourierEmbedder(nn.Module):
    """Random Fourier features of a number, (b, embed_dim); the frequencies are parameters, so that freezing shows."""

    def __init__(self, embed_dim: int, scale: float = 1.0) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(torch.randn(embed_dim) * scale)

    def forward(self, numbers: Tensor) -> Tensor:
        return torch.cos(numbers[:, None] * self.frequencies)
