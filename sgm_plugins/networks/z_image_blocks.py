"""What Z-Image's transformer repeats: a block of attention and feed-forward layers with norms on both sides."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import silu

from sgm_plugins.networks.convolution import zeroed
from sgm_plugins.networks.heads import attended, heads_of
from sgm_plugins.networks.rope import rotated

LEVEL_DIM = 256
"""Width of the embedding of the noise level, or the tokens' if these are narrower."""


class Attention(nn.Module):
    """Tokens (b, n, dim) attend to each other; queries and keys are normalized, then rotated by their positions."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_norm = nn.RMSNorm(dim // heads, eps=1e-5)
        self.k_norm = nn.RMSNorm(dim // heads, eps=1e-5)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, angles: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (heads_of(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))  # (b, heads, n, d)
        q, k = rotated(self.q_norm(q), angles), rotated(self.k_norm(k), angles)
        y: Tensor = self.out(attended(q, k, v, mask))
        return y


class FeedForward(nn.Module):
    """SwiGLU, Shazeer 2020, arXiv:2002.05202: w2(silu(w1 x) * w3 x)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(dim, hidden, bias=False)
        self.w2 = nn.Linear(hidden, dim, bias=False)
        self.w3 = nn.Linear(dim, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.w2(silu(self.w1(x)) * self.w3(x))
        return y


class ZImageBlock(nn.Module):
    """Sandwich norms: each branch is normalized before and after, scaled before and gated, by tanh, after.

    Args:
        dim: of the tokens; a multiple of `heads`.
        heads: of the attention.
        eps: of the norms of tokens.
        modulated: whether the noise level scales and gates; without it nothing does.
    """

    def __init__(self, dim: int, heads: int, eps: float, modulated: bool) -> None:
        super().__init__()
        self.attention = Attention(dim, heads)
        self.feed_forward = FeedForward(dim, int(dim / 3 * 8))
        self.attention_norm1 = nn.RMSNorm(dim, eps=eps)
        self.attention_norm2 = nn.RMSNorm(dim, eps=eps)
        self.ffn_norm1 = nn.RMSNorm(dim, eps=eps)
        self.ffn_norm2 = nn.RMSNorm(dim, eps=eps)
        self.adaLN_modulation = None
        if modulated:
            self.adaLN_modulation = nn.Sequential(zeroed(nn.Linear(min(dim, LEVEL_DIM), 4 * dim)))

    def forward(self, x: Tensor, angles: Tensor, mask: Tensor | None, level: Tensor | None) -> Tensor:
        """Tokens (b, n, dim), like x.

        Args:
            angles: of their positions, (b, n, dim / heads / 2).
            mask: (b, n), the tokens that there are.
            level: embedding of the noise level, (b, min(dim, 256)), of a modulated block.
        """
        if self.adaLN_modulation is None:
            x = x + self.attention_norm2(self.attention(self.attention_norm1(x), angles, mask))
            y: Tensor = x + self.ffn_norm2(self.feed_forward(self.ffn_norm1(x)))
            return y
        scale, gate, ffn_scale, ffn_gate = self.adaLN_modulation(level)[:, None].chunk(4, dim=-1)  # (b, 1, dim) each
        h = self.attention(self.attention_norm1(x) * (1 + scale), angles, mask)
        x = x + gate.tanh() * self.attention_norm2(h)
        h = self.feed_forward(self.ffn_norm1(x) * (1 + ffn_scale))
        modulated: Tensor = x + ffn_gate.tanh() * self.ffn_norm2(h)
        return modulated


class FinalLayer(nn.Module):
    """Tokens (b, n, dim) -> (b, n, out_dim); the noise level scales them, and does not shift them."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.linear = zeroed(nn.Linear(dim, out_dim))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), zeroed(nn.Linear(min(dim, LEVEL_DIM), dim)))

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        y: Tensor = self.linear(self.norm_final(x) * (1 + self.adaLN_modulation(level)[:, None]))
        return y
