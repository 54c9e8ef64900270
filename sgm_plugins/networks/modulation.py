"""Layers that the noise level and the condition scale, shift and gate: adaLN, Peebles & Xie 2022, arXiv:2212.09748."""

from __future__ import annotations

from torch import Tensor, nn

from sgm_plugins.networks.convolution import zeroed
from sgm_plugins.sinusoidal import timestep_embedding


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Tokens x (b, n, d), scaled by 1 + scale and shifted; both (b, d) for the whole sample, or (b, n, d)."""
    if shift.ndim == 2:
        shift, scale = shift[:, None], scale[:, None]
    return x * (1 + scale) + shift


class LevelEmbedding(nn.Module):
    """c_noise (b,) -> (b, dim): sinusoids through two layers."""

    def __init__(self, dim: int, features: int = 256, hidden: int | None = None) -> None:
        super().__init__()
        hidden = dim if hidden is None else hidden
        self.features = features
        self.mlp = nn.Sequential(nn.Linear(features, hidden), nn.SiLU(), nn.Linear(hidden, dim))

    def forward(self, c_noise: Tensor) -> Tensor:
        dtype = next(self.parameters()).dtype
        embedding: Tensor = self.mlp(timestep_embedding(c_noise, self.features).to(dtype))
        return embedding


class FinalLayer(nn.Module):
    """Tokens (b, n, dim) -> (b, n, out_dim), modulated by the embedding (b, dim) of level and condition. Zero until it
    is trained.

    Args:
        modulates: the layer computes shift and scale itself; else the embedding is the two, (b, 2 dim).
    """

    def __init__(self, dim: int, out_dim: int, modulates: bool = True) -> None:
        super().__init__()
        self.norm_final: nn.Module = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.linear = zeroed(nn.Linear(dim, out_dim))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), zeroed(nn.Linear(dim, 2 * dim))) if modulates else None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        if self.adaLN_modulation is not None:
            embedding = self.adaLN_modulation(embedding)
        shift, scale = embedding.chunk(2, dim=-1)
        y: Tensor = self.linear(modulated(self.norm_final(x), shift, scale))
        return y
