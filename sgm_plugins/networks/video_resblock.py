"""The residual block of the video U-Nets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from einops import rearrange
from torch import Tensor

from sgm_plugins.networks.alpha_blender import AlphaBlender, MergeStrategy
from sgm_plugins.networks.clips import Clips
from sgm_plugins.networks.resblock import ResBlock
from sgm_plugins.networks.skeleton import Resample


class VideoResBlock(ResBlock):
    """A residual block for each frame, then one along the frames, mixed with what came in.

    Blattmann et al. 2023, arXiv:2311.15127. A subclass, as checkpoints have the parameters of the image block and
    those along the frames side by side.

    Args:
        merge_strategy, merge_factor: of the mixture, see `AlphaBlender`.
        video_kernel_size: of the convolutions along the frames, (frames, height, width).
        channels, emb_channels, out_channels, dropout, use_scale_shift_norm, resample, use_checkpoint: see `ResBlock`.
    """

    asks: ClassVar[tuple[str, ...]] = ("emb", "clips")

    def __init__(
        self,
        merge_strategy: MergeStrategy,
        merge_factor: float,
        video_kernel_size: tuple[int, int, int],
        channels: int,
        emb_channels: int,
        out_channels: int,
        dropout: float = 0.0,
        use_scale_shift_norm: bool = False,
        resample: Resample | None = None,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__(
            channels, emb_channels, out_channels, dropout, 2, use_scale_shift_norm, resample, use_checkpoint
        )
        self.time_stack = ResBlock(
            out_channels,
            emb_channels,
            dropout=dropout,
            dims=3,
            use_checkpoint=use_checkpoint,
            kernel_size=video_kernel_size,
        )
        self.time_mixer = AlphaBlender(merge_strategy, merge_factor)

    def forward(self, x: Tensor, emb: Tensor, clips: Clips) -> Tensor:  # type: ignore[override]
        """x (rows, channels, h, w), emb (rows, emb_channels) -> (rows, out_channels, h, w), resampled."""
        spatial = super().forward(x, emb)
        temporal = self.time_stack(
            rearrange(spatial, "(b t) c h w -> b c t h w", t=clips.frames),
            rearrange(emb, "(b t) d -> b t d", t=clips.frames),
        )
        mixed: Tensor = self.time_mixer(spatial, rearrange(temporal, "b c t h w -> (b t) c h w"), clips.image_only)
        return mixed


def video_kernel(size: int | Sequence[int]) -> tuple[int, int, int]:
    """A kernel over (frames, height, width), from its three sizes or the one of all.

    Raises:
        ValueError: it is not three odd numbers, so that convolutions would change the size of the grid.
    """
    sizes = [size] * 3 if isinstance(size, int) else list(size)
    if len(sizes) != 3 or any(n < 1 or n % 2 == 0 for n in sizes):
        raise ValueError(f"video_kernel_size is {size}; give an odd number, or three of them: frames, height, width")
    frames, height, width = sizes
    return frames, height, width
