"""Attention among the cells of a grid, and from them to a context."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from sgm_plugins.networks.attention import Attention
from sgm_plugins.networks.checkpointing import checkpointed
from sgm_plugins.networks.convolution import Dims, conv, zeroed
from sgm_plugins.networks.feed_forward import FeedForward
from sgm_plugins.networks.group_norm import GroupNorm
from sgm_plugins.networks.named_blocks import BlockRequests, Mode


class TransformerBlock(nn.Module):
    """Pre-norm residual layers over tokens: attention to themselves, attention to the context, feed-forward.

    Args:
        dim: width of the tokens.
        num_heads: must divide `dim`.
        context_dim: width of the context's tokens; without one the second attention is to the tokens too.
        disable_self_attn: the first attention is to the context as well.
        use_checkpoint: recompute the activations in the backward pass.
        dropout: in the attentions and the feed-forward layers.
        feed_forward_first: another feed-forward layer before the attentions.
        cross_attention: whether there is the second attention.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        context_dim: int | None = None,
        disable_self_attn: bool = False,
        use_checkpoint: bool = False,
        dropout: float = 0.0,
        feed_forward_first: bool = False,
        cross_attention: bool = True,
    ) -> None:
        super().__init__()
        self.disable_self_attn = disable_self_attn
        self.use_checkpoint = use_checkpoint
        self.norm_in = nn.LayerNorm(dim) if feed_forward_first else None
        self.ff_in = FeedForward(dim, dropout=dropout) if feed_forward_first else None
        self.attn1 = Attention(dim, num_heads, context_dim if disable_self_attn else None, dropout)
        self.ff = FeedForward(dim, dropout=dropout)
        self.attn2 = Attention(dim, num_heads, context_dim, dropout) if cross_attention else None
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim) if cross_attention else None
        self.norm3 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, context: Tensor | None = None, perturb: Mode | None = None) -> Tensor:
        """x (b, n, dim), context (b, m, context_dim) -> (b, n, dim). `perturb` weakens each attention to x itself."""
        if perturb == "slg":
            return x
        return checkpointed(self.use_checkpoint, self._forward, x, context, perturb)

    def _forward(self, x: Tensor, context: Tensor | None, perturb: Mode | None) -> Tensor:
        if self.ff_in is not None and self.norm_in is not None:
            x = x + self.ff_in(self.norm_in(x))
        x = x + self.attn1(self.norm1(x), context if self.disable_self_attn else None, perturb)
        if self.attn2 is not None and self.norm2 is not None:
            x = x + self.attn2(self.norm2(x), context, perturb)
        y: Tensor = x + self.ff(self.norm3(x))
        return y


def as_requested(requests: BlockRequests | None, block: nn.Module, h: Tensor, context: Tensor | None) -> Tensor:
    """block(h, context), with what the call asks of this block."""
    if requests is None:
        y: Tensor = block(h, context)
        return y
    y = block(h, context, requests.mode_of(block))
    requests.keep(block, y)
    return y


class SpatialTransformer(nn.Module):
    """Transformer blocks over the cells of a grid, as a residual branch that starts at zero.

    Rombach et al. 2022, arXiv:2112.10752, appendix E.2.1.

    Args:
        channels: of the grid.
        num_heads: must divide `channels`.
        depth: number of transformer blocks.
        context_dim: width of the context's tokens; without one every attention is to the grid itself.
        dims: axes of the grid.
        disable_self_attn: both attentions of a block are to the context.
        use_linear: linear projections in and out instead of 1-wide convolutions: other shapes of the same weights.
        use_checkpoint: recompute the activations in the backward pass.
        dropout: in the transformer blocks.
    """

    asks: ClassVar[tuple[str, ...]] = ("context", "requests")

    def __init__(
        self,
        channels: int,
        num_heads: int,
        depth: int = 1,
        context_dim: int | None = None,
        dims: Dims = 2,
        disable_self_attn: bool = False,
        use_linear: bool = False,
        use_checkpoint: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.use_linear = use_linear
        self.norm = GroupNorm(channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels) if use_linear else conv(dims, channels, channels, 1)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, num_heads, context_dim, disable_self_attn, use_checkpoint, dropout)
            for _ in range(depth)
        )
        self.proj_out = (
            zeroed(nn.Linear(channels, channels)) if use_linear else conv(dims, channels, channels, 1, zero=True)
        )

    def forward(self, x: Tensor, context: Tensor | None = None, requests: BlockRequests | None = None) -> Tensor:
        """x (b, channels, *grid), context (b, m, context_dim) -> like x."""
        h = self.tokens(x)
        for block in self.transformer_blocks:
            h = as_requested(requests, block, h, context)
        return x + self.grid(h, x)

    def tokens(self, x: Tensor) -> Tensor:
        """The cells of a grid (b, channels, *grid), normalized and projected, as tokens (b, n, channels)."""
        h: Tensor = self.norm(x)
        if not self.use_linear:
            h = self.proj_in(h)
        h = h.flatten(2).transpose(1, 2)
        if self.use_linear:
            h = self.proj_in(h)
        return h

    def grid(self, h: Tensor, x: Tensor) -> Tensor:
        """Tokens (b, n, channels), projected, as a grid like x."""
        if self.use_linear:
            h = self.proj_out(h)
        h = h.transpose(1, 2).reshape(x.shape)
        if not self.use_linear:
            h = self.proj_out(h)
        return h
