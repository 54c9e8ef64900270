"""Layers that mix the frames of a clip, each around a layer that sees single frames.

Blattmann et al. 2023, arXiv:2311.15127 (Stable Video Diffusion). They are subclasses of the image layers because the
public checkpoints have the parameters of both side by side. Shapes: (clips * frames, c, h, w), frames fastest.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from sgm_plugins.networks.convolution import conv
from sgm_plugins.networks.ddpm_blocks import AttnBlock, ResnetBlock
from sgm_plugins.networks.group_norm import GroupNorm
from sgm_plugins.networks.spatial_transformer import TransformerBlock
from sgm_plugins.networks.video_transformer import PositionEmbedding

MergeStrategy = Literal["learned", "fixed"]
"""How much of a mixture its first part is: sigmoid of a parameter that starts at alpha, or alpha itself."""

Kernel = tuple[int, int, int]
"""Of a convolution over (frames, height, width), odd."""


def add_mix_factor(module: nn.Module, alpha: float, strategy: MergeStrategy) -> None:
    """Give a module the `mix_factor` of its mixture, under the name in checkpoints."""
    factor = torch.tensor([float(alpha)])
    if strategy == "learned":
        module.register_parameter("mix_factor", nn.Parameter(factor))
    else:
        module.register_buffer("mix_factor", factor)


def mix(mix_factor: Tensor, strategy: MergeStrategy, first: Tensor, second: Tensor) -> Tensor:
    """a * first + (1 - a) * second."""
    a = (mix_factor.sigmoid() if strategy == "learned" else mix_factor).to(first.dtype)
    return a * first + (1 - a) * second


class TimeStack(nn.Module):
    """Two normalized 3-D convolutions with a residual connection, which start as the identity."""

    def __init__(self, channels: int, kernel: Kernel, dropout: float = 0.0) -> None:
        super().__init__()
        # epsilon 1e-5, unlike the image layers around it: the checkpoints took these from a U-Net
        self.in_layers = nn.Sequential(GroupNorm(channels), nn.SiLU(), conv(3, channels, channels, kernel))
        self.out_layers = nn.Sequential(
            GroupNorm(channels), nn.SiLU(), nn.Dropout(dropout), conv(3, channels, channels, kernel, zero=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(clips, channels, frames, h, w) -> the same shape."""
        y: Tensor = x + self.out_layers(self.in_layers(x))
        return y


class TemporalResnetBlock(ResnetBlock):
    """A residual block per frame, and mixed with its result what 3-D convolutions make of that.

    Args:
        channels, out_channels, dropout: see `ResnetBlock`.
        kernel: of the 3-D convolutions.
        alpha, merge_strategy: how much of the mixture has passed the 3-D convolutions, see `MergeStrategy`.
    """

    asks: ClassVar[tuple[str, ...]] = ("frames",)
    mix_factor: Tensor

    def __init__(
        self,
        channels: int,
        out_channels: int,
        dropout: float,
        kernel: Kernel,
        alpha: float,
        merge_strategy: MergeStrategy,
    ) -> None:
        super().__init__(channels, out_channels, dropout=dropout)
        self.time_stack = TimeStack(out_channels, kernel, dropout)
        self.merge_strategy = merge_strategy
        add_mix_factor(self, alpha, merge_strategy)

    def forward(self, x: Tensor, frames: int) -> Tensor:  # type: ignore[override]
        """(clips * frames, channels, h, w) -> (clips * frames, out_channels, h, w)."""
        spatial = rearrange(super().forward(x), "(b t) c h w -> b c t h w", t=frames)
        mixed = mix(self.mix_factor, self.merge_strategy, self.time_stack(spatial), spatial)
        y: Tensor = rearrange(mixed, "b c t h w -> (b t) c h w")
        return y


class TemporalAttnBlock(AttnBlock):
    """Attention among the cells of each frame, and mixed with it a transformer along the frames at each cell.

    Args:
        channels: see `AttnBlock`.
        alpha, merge_strategy: how much of the mixture has not passed the transformer, see `MergeStrategy`. (The
            other way round than in `TemporalResnetBlock`.)
    """

    asks: ClassVar[tuple[str, ...]] = ("frames",)
    mix_factor: Tensor

    def __init__(self, channels: int, alpha: float, merge_strategy: MergeStrategy) -> None:
        super().__init__(channels)
        self.time_mix_block = TransformerBlock(channels, num_heads=1, feed_forward_first=True)
        self.video_time_embed = PositionEmbedding(channels)
        self.merge_strategy = merge_strategy
        add_mix_factor(self, alpha, merge_strategy)

    def forward(self, x: Tensor, frames: int) -> Tensor:  # type: ignore[override]
        """(clips * frames, channels, h, w) -> the same shape."""
        h = self.norm(x)
        q, k, v = (rearrange(to(h), "n c h w -> n 1 (h w) c") for to in (self.q, self.k, self.v))
        spatial = scaled_dot_product_attention(q, k, v).squeeze(1)  # (clips * frames, cells, channels)
        along = rearrange(spatial, "(b t) n c -> (b n) t c", t=frames)
        along = self.time_mix_block(along + self.video_time_embed(frames))
        temporal = rearrange(along, "(b n) t c -> (b t) n c", n=spatial.shape[1])
        mixed = mix(self.mix_factor, self.merge_strategy, spatial, temporal)
        y: Tensor = x + self.proj_out(mixed.transpose(1, 2).reshape(x.shape))
        return y


class TemporalConv(nn.Conv2d):
    """A 3x3 convolution per frame, then one over frames."""

    asks: ClassVar[tuple[str, ...]] = ("frames",)

    def __init__(self, in_channels: int, out_channels: int, kernel: Kernel) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)
        self.time_mix_conv = conv(3, out_channels, out_channels, kernel)

    def forward(self, x: Tensor, frames: int) -> Tensor:  # type: ignore[override]
        """(clips * frames, in_channels, h, w) -> (clips * frames, out_channels, h, w)."""
        images = rearrange(super().forward(x), "(b t) c h w -> b c t h w", t=frames)
        y: Tensor = rearrange(self.time_mix_conv(images), "b c t h w -> (b t) c h w")
        return y
