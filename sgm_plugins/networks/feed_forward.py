"""The feed-forward layer of the transformers."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import gelu


class GEGLU(nn.Module):
    """A linear layer gated by the GELU of another: (W x) * GELU(V x). Shazeer 2020, arXiv:2002.05202."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, 2 * out_dim)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        y: Tensor = value * gelu(gate)
        return y


class FeedForward(nn.Module):
    """(..., dim) -> (..., dim) through a GEGLU of `mult` times the width."""

    def __init__(self, dim: int, mult: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.net = nn.Sequential(GEGLU(dim, mult * dim), nn.Dropout(dropout), nn.Linear(mult * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x)
        return y
