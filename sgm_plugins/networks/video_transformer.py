"""Attention within the frames of a video, and along them."""

from __future__ import annotations

from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn

from sgm_plugins.networks.alpha_blender import AlphaBlender, MergeStrategy
from sgm_plugins.networks.clips import Clips
from sgm_plugins.networks.named_blocks import BlockRequests
from sgm_plugins.networks.spatial_transformer import SpatialTransformer, TransformerBlock, as_requested
from sgm_plugins.sinusoidal import timestep_embedding


class SpatialVideoTransformer(SpatialTransformer):
    """A transformer for each frame; after each of its blocks one along the frames at each cell, mixed with it.

    Blattmann et al. 2023, arXiv:2311.15127. A subclass, as checkpoints have the parameters of both side by side.

    Args:
        merge_strategy, merge_factor: of the mixture, see `AlphaBlender`.
        channels, num_heads, depth, context_dim, use_linear, use_checkpoint, dropout: see `SpatialTransformer`.
        time_context_dim: width of the tokens of the clip's context; without one a frame attends to the frames twice.
        disable_temporal_crossattention: no second attention along the frames.
        max_period: of the sinusoids that tell the frame's number.
    """

    asks: ClassVar[tuple[str, ...]] = ("context", "clips", "requests")

    def __init__(
        self,
        merge_strategy: MergeStrategy,
        merge_factor: float,
        channels: int,
        num_heads: int,
        depth: int = 1,
        context_dim: int | None = None,
        use_linear: bool = False,
        use_checkpoint: bool = False,
        dropout: float = 0.0,
        time_context_dim: int | None = None,
        disable_temporal_crossattention: bool = False,
        max_period: float = 10000,
    ) -> None:
        super().__init__(channels, num_heads, depth, context_dim, 2, False, use_linear, use_checkpoint, dropout)
        self.time_stack = nn.ModuleList(
            TransformerBlock(
                channels,
                num_heads,
                time_context_dim,
                use_checkpoint=use_checkpoint,
                dropout=dropout,
                feed_forward_first=True,
                cross_attention=not disable_temporal_crossattention,
            )
            for _ in range(depth)
        )
        self.time_pos_embed = PositionEmbedding(channels, max_period)
        self.time_mixer = AlphaBlender(merge_strategy, merge_factor)

    def forward(  # type: ignore[override]
        self, x: Tensor, context: Tensor | None, clips: Clips, requests: BlockRequests | None = None
    ) -> Tensor:
        """x (rows, channels, h, w), context (rows, m, context_dim) -> like x."""
        h = self.tokens(x)  # (b t) n c
        position = self.time_pos_embed(clips.frames)
        for block, time_block in zip(self.transformer_blocks, self.time_stack, strict=True):
            h = as_requested(requests, block, h, context)
            along = rearrange(h, "(b t) n c -> (b n) t c", t=clips.frames)
            along = time_block(along + position, clips.context)
            h = self.time_mixer(h, rearrange(along, "(b n) t c -> (b t) n c", n=h.shape[1]), clips.image_only)
        return x + self.grid(h, x)


class PositionEmbedding(nn.Sequential):
    """The numbers 0, 1, ..., n - 1 of frames (or views) -> (n, channels), through sinusoids."""

    def __init__(self, channels: int, max_period: float = 10000) -> None:
        super().__init__(nn.Linear(channels, 4 * channels), nn.SiLU(), nn.Linear(4 * channels, channels))
        self.channels, self.max_period = channels, max_period

    def forward(self, n: int) -> Tensor:
        weight = next(self.parameters())
        h = timestep_embedding(torch.arange(n, device=weight.device), self.channels, self.max_period).to(weight.dtype)
        for layer in self:
            h = layer(h)
        return h
