"""The blocks of FLUX.1: text and image as two streams that attend together, then as one.

Black Forest Labs 2024, https://github.com/black-forest-labs/flux; the streams are those of Esser et al. 2024,
arXiv:2403.03206, the parallel block is that of Dehghani et al. 2023, arXiv:2302.05442. Modules are named as in the
published files. In all of them d is the width, and tokens of the text come before those of the image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, rms_norm, silu

from sgm_plugins.networks.heads import attended, heads_of
from sgm_plugins.networks.modulation import modulated
from sgm_plugins.networks.rope import rotated
from sgm_plugins.sinusoidal import timestep_embedding

NORM_EPS = 1e-6


class MLPEmbedder(nn.Module):
    """Features (b, features) -> (b, d), through two layers."""

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.in_layer = nn.Linear(features, dim)
        self.out_layer = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out_layer(silu(self.in_layer(x)))
        return y


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * scale over the last axis, in float32: Zhang & Sennrich 2019, arXiv:1910.07467."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x.float(), self.scale.shape, self.scale.float(), NORM_EPS).to(x.dtype)


class QKNorm(nn.Module):
    """Queries and keys (b, heads, n, d / heads), each normalised."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query_norm = RMSNorm(dim)
        self.key_norm = RMSNorm(dim)

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return self.query_norm(q), self.key_norm(k)


class Modulation(nn.Module):
    """The embedding of level and condition (b, d) -> (b, rows, d): shift, scale and gate, once or twice."""

    def __init__(self, dim: int, rows: int) -> None:
        super().__init__()
        self.rows = rows
        self.lin = nn.Linear(dim, rows * dim)

    def forward(self, embedding: Tensor) -> Tensor:
        rows: Tensor = self.lin(silu(embedding)).unflatten(-1, (self.rows, -1))
        return rows


class StreamAttention(nn.Module):
    """What one stream brings to the attention, and takes from it."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.norm = QKNorm(dim // heads)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (b, n, d) -> queries, keys and values, each (b, heads, n, d / heads)."""
        q, k, v = (heads_of(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        return (*self.norm(q, k), v)


def feed_forward(dim: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, dim))


def normed(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Tokens (b, n, d), normalised and modulated by (b, d)."""
    return modulated(layer_norm(x, x.shape[-1:], eps=NORM_EPS), shift, scale)


def joint_attention(q: Tensor, k: Tensor, v: Tensor, angles: Tensor, mask: Tensor | None) -> Tensor:
    """Heads (b, heads, n, d / heads) -> tokens (b, n, d), with positions as angles (n, d / heads / 2)."""
    return attended(rotated(q, angles), rotated(k, angles), v, mask)


class DoubleStreamBlock(nn.Module):
    """Text and image with weights of their own, and one attention over both.

    Args:
        dim: the width d.
        heads: of the attention; divides d.
        hidden: width within the feed-forward layers.
        modulated: the block computes its modulation itself; else its embedding is that, twelve rows (b, 12, d), those
            of the image first.
    """

    def __init__(self, dim: int, heads: int, hidden: int, modulated: bool = True) -> None:
        super().__init__()
        self.img_mod = Modulation(dim, 6) if modulated else None
        self.img_attn = StreamAttention(dim, heads)
        self.img_mlp = feed_forward(dim, hidden)
        self.txt_mod = Modulation(dim, 6) if modulated else None
        self.txt_attn = StreamAttention(dim, heads)
        self.txt_mlp = feed_forward(dim, hidden)

    def forward(
        self, img: Tensor, txt: Tensor, embedding: Tensor, angles: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Tokens of image (b, n, d) and text (b, m, d), as they are returned.

        Args:
            embedding: of level and condition, (b, d), or the modulation itself.
            angles: of the positions of text and image, (m + n, d / heads / 2).
            mask: (b, m + n) of bool, which tokens are attended to; None: all.
        """
        if self.img_mod is None or self.txt_mod is None:
            img_rows, txt_rows = embedding.chunk(2, dim=1)
        else:
            img_rows, txt_rows = self.img_mod(embedding), self.txt_mod(embedding)
        shift, scale, img_gate, img_shift2, img_scale2, img_gate2 = img_rows[:, :, None].unbind(1)  # each (b, 1, d)
        img_heads = self.img_attn(normed(img, shift, scale))
        shift, scale, txt_gate, txt_shift2, txt_scale2, txt_gate2 = txt_rows[:, :, None].unbind(1)
        txt_heads = self.txt_attn(normed(txt, shift, scale))

        q, k, v = (torch.cat(pair, dim=2) for pair in zip(txt_heads, img_heads, strict=True))
        out = joint_attention(q, k, v, angles, mask)
        txt_out, img_out = out[:, : txt.shape[1]], out[:, txt.shape[1] :]

        img = img + img_gate * self.img_attn.proj(img_out)
        img = img + img_gate2 * self.img_mlp(normed(img, img_shift2, img_scale2))
        txt = txt + txt_gate * self.txt_attn.proj(txt_out)
        txt = txt + txt_gate2 * self.txt_mlp(normed(txt, txt_shift2, txt_scale2))
        return img, txt


class SingleStreamBlock(nn.Module):
    """Text and image as one sequence; attention and feed-forward layer side by side.

    Args:
        dim, heads, hidden: as `DoubleStreamBlock`.
        modulated: likewise; of three rows (b, 3, d).
    """

    def __init__(self, dim: int, heads: int, hidden: int, modulated: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.widths = (dim, dim, dim, hidden)
        self.linear1 = nn.Linear(dim, 3 * dim + hidden)  # queries, keys, values, and the way into the feed-forward
        self.linear2 = nn.Linear(dim + hidden, dim)
        self.norm = QKNorm(dim // heads)
        self.modulation = Modulation(dim, 3) if modulated else None

    def forward(self, x: Tensor, embedding: Tensor, angles: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens (b, n, d) -> (b, n, d); arguments as `DoubleStreamBlock`."""
        rows = embedding if self.modulation is None else self.modulation(embedding)
        shift, scale, gate = rows[:, :, None].unbind(1)  # each (b, 1, d)
        *qkv, hidden = self.linear1(normed(x, shift, scale)).split(self.widths, dim=-1)
        q, k, v = (heads_of(part, self.heads) for part in qkv)
        q, k = self.norm(q, k)
        attention = joint_attention(q, k, v, angles, mask)
        y: Tensor = x + gate * self.linear2(torch.cat([attention, gelu(hidden, approximate="tanh")], dim=-1))
        return y


class Approximator(nn.Module):
    """All modulations of a network at once, from the noise level: Chroma, https://huggingface.co/lodestones/Chroma.

    A small network that is told the level, a guidance of 0, and which modulation it is to give, as sinusoids.

    Args:
        rows: how many there are, each of width d.
        dim: the width d.
        channels: of the sinusoids together; a multiple of 8.
        hidden: width within.
        depth: layers.
    """

    def __init__(self, rows: int, dim: int, channels: int = 64, hidden: int = 5120, depth: int = 5) -> None:
        super().__init__()
        self.rows, self.channels = rows, channels
        self.in_proj = nn.Linear(channels, hidden)
        self.layers = nn.ModuleList(MLPEmbedder(hidden, hidden) for _ in range(depth))
        self.norms = nn.ModuleList(RMSNorm(hidden) for _ in range(depth))
        self.out_proj = nn.Linear(hidden, dim)

    def forward(self, c_noise: Tensor) -> Tensor:
        """c_noise (b,) -> (b, rows, d)."""
        quarter, half = self.channels // 4, self.channels // 2
        told = [timestep_embedding(c_noise, quarter), timestep_embedding(torch.zeros_like(c_noise), quarter)]
        level = torch.cat(told, dim=-1)[:, None].expand(-1, self.rows, -1)
        which = timestep_embedding(1000 * torch.arange(self.rows, device=c_noise.device), half)
        x = torch.cat([level, which.expand(len(level), -1, -1)], dim=-1).to(self.in_proj.weight.dtype)
        x = self.in_proj(x)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = x + layer(norm(x))
        y: Tensor = self.out_proj(x)
        return y
