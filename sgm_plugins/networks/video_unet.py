"""The U-Net of Stable Video Diffusion."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from sgm_core.shapes import Takes
from sgm_plugins.networks.alpha_blender import MergeStrategy
from sgm_plugins.networks.clips import Clips, check_tokens, frames_per_clip, one_per_row
from sgm_plugins.networks.label_embedding import Labels
from sgm_plugins.networks.levels import Count, Heads, Levels, Place, one_width
from sgm_plugins.networks.skeleton import Resample, UNetSkeleton
from sgm_plugins.networks.video_resblock import VideoResBlock, video_kernel
from sgm_plugins.networks.video_transformer import SpatialVideoTransformer
from sgm_plugins.networks.widths import unet_takes


class VideoUNet(UNetSkeleton):
    """F(x; timesteps, context, y) for clips: the U-Net of images, with layers along the frames after its own.

    Blattmann et al. 2023, arXiv:2311.15127 (Stable Video Diffusion), and 2304.08818 (layers along the frames).
    Parameters are named as in the public checkpoints. A batch is clips of frames, the frames of a clip consecutive
    rows. Any size of image works. See `unet.UNet` for the arguments that are not explained here.

    Args:
        in_channels: of x, concatenated conditioning included.
        model_channels: width of the first level; a multiple of 32.
        out_channels: of the result.
        num_res_blocks: residual blocks per level, one number or one per level; one more on the way up.
        attention_resolutions: the downsampling factors whose levels have transformers; the middle block has one anyway.
        dropout: in the residual blocks and the transformers.
        channel_mult: the width of each level in `model_channels`.
        conv_resample: resample with learned convolutions.
        num_classes: what y is.
        use_checkpoint: recompute the activations of each block in the backward pass, to save memory.
        num_heads: heads of every attention, unless `num_head_channels` is given; -1 is unset.
        num_head_channels: width of a head; -1 is unset.
        num_heads_upsample: `num_heads` of the way up; -1: the same.
        use_scale_shift_norm: the embedding scales and shifts, rather than shifts only, within a frame.
        resblock_updown: resample in residual blocks.
        transformer_depth: blocks per transformer, one number or one per level.
        transformer_depth_middle: of the middle block; None: that of the last level.
        context_dim: width of the context's tokens.
        time_context_dim: width of the tokens of `time_context`, which layers along the frames attend to. None: to the
            frames themselves, or see `use_spatial_context`.
        use_spatial_context: layers along the frames attend to the context of the clip's first frame.
        merge_strategy: how the two kinds of layers are mixed.
        merge_factor: weight of the layers within a frame; where it is learned, the number whose sigmoid it starts as.
        video_kernel_size: of the convolutions along the frames; one number, or (frames, height, width). Odd.
        use_linear_in_transformer: linear projections into and out of the transformers, rather than 1x1 convolutions.
        adm_in_channels: width of y for num_classes "sequential".
        disable_temporal_crossattention: layers along the frames attend to the frames alone, once.
        max_ddpm_temb_period: the longest wavelength over 2 pi of the frame number's sinusoids, in frames.
        num_video_frames: frames per clip, unless the call says otherwise.

    Raises:
        ValueError: arguments that do not fit each other; the message has the numbers.
    """

    def __init__(
        self,
        in_channels: Count,
        model_channels: Count,
        out_channels: Count,
        num_res_blocks: int | list[int],
        attention_resolutions: list[int],
        dropout: Annotated[float, Ge(0), Le(1)] = 0.0,
        channel_mult: list[int] = [1, 2, 4, 8],  # noqa: B006 - the type that the schema shows; never changed
        conv_resample: bool = True,
        num_classes: Labels | None = None,
        use_checkpoint: bool = False,
        num_heads: int = -1,
        num_head_channels: int = -1,
        num_heads_upsample: int = -1,
        use_scale_shift_norm: bool = False,
        resblock_updown: bool = False,
        transformer_depth: int | list[int] = 1,
        transformer_depth_middle: Annotated[int, Ge(0)] | None = None,
        context_dim: int | list[int] | None = None,
        time_context_dim: Count | None = None,
        use_spatial_context: bool = False,
        merge_strategy: MergeStrategy = "fixed",
        merge_factor: float = 0.5,
        video_kernel_size: int | list[int] = 3,
        use_linear_in_transformer: bool = False,
        adm_in_channels: Count | None = None,
        disable_temporal_crossattention: bool = False,
        max_ddpm_temb_period: Annotated[float, Gt(0)] = 10000,
        num_video_frames: Count | None = None,
    ) -> None:
        levels = Levels.plan(model_channels, channel_mult, num_res_blocks, attention_resolutions, transformer_depth)
        heads = Heads(num_heads, num_head_channels, num_heads_upsample)
        heads.check(attention_resolutions)
        kernel = video_kernel(video_kernel_size)
        context_width = one_width(context_dim)
        if use_spatial_context:
            if context_width is None:
                raise ValueError("use_spatial_context, but context_dim is None: there is no context to attend to")
            if time_context_dim not in (None, context_width):
                raise ValueError(
                    f"time_context_dim is {time_context_dim}, but use_spatial_context attends to the context of width "
                    f"{context_width}: leave time_context_dim out"
                )
        time_context_width = context_width if use_spatial_context else time_context_dim
        if disable_temporal_crossattention:
            time_context_width = None

        def residual(channels: int, out: int, resample: Resample | None) -> nn.Module:
            return VideoResBlock(
                merge_strategy,
                merge_factor,
                kernel,
                channels,
                4 * model_channels,
                out,
                dropout,
                use_scale_shift_norm,
                resample,
                use_checkpoint,
            )

        def transformer(level: int, place: Place) -> nn.Module:
            return SpatialVideoTransformer(
                merge_strategy,
                merge_factor,
                levels.widths[level],
                heads.at(levels.widths[level], place),
                levels.depth(level, place, transformer_depth_middle),
                context_width,
                use_linear_in_transformer,
                use_checkpoint,
                dropout,
                time_context_width,
                disable_temporal_crossattention,
                max_ddpm_temb_period,
            )

        super().__init__(
            in_channels,
            out_channels,
            levels,
            2,
            context_width,
            num_classes,
            adm_in_channels,
            conv_resample,
            residual,
            transformer,
            resblock_updown,
        )
        self.use_spatial_context = use_spatial_context and not disable_temporal_crossattention
        self.time_context_dim = None if use_spatial_context else time_context_width
        self.num_video_frames = num_video_frames

    @staticmethod
    def shapes(
        *,
        in_channels: int,
        model_channels: int,
        num_res_blocks: int | list[int],
        attention_resolutions: list[int],
        channel_mult: list[int],
        num_classes: Labels | None,
        transformer_depth: int | list[int],
        transformer_depth_middle: int | None,
        context_dim: int | list[int] | None,
        time_context_dim: int | None,
        use_spatial_context: bool,
        adm_in_channels: int | None,
        disable_temporal_crossattention: bool,
    ) -> dict[str, Takes]:
        levels = Levels.plan(model_channels, channel_mult, num_res_blocks, attention_resolutions, transformer_depth)
        middle = levels.depth(-1, "middle", transformer_depth_middle)
        takes = unet_takes(in_channels, levels, middle, context_dim, num_classes, adm_in_channels)
        takes["time_context"] = Takes("time_context_dim", time_context_dim)
        if use_spatial_context or disable_temporal_crossattention:
            takes["time_context"] = Takes("", None)
        return takes

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        y: Tensor | None = None,
        time_context: Tensor | None = None,
        num_video_frames: int | None = None,
        image_only_indicator: Tensor | None = None,
        perturb: Mapping[str, Any] | None = None,
        taps: MutableMapping[str, Any] | None = None,
    ) -> Tensor:
        """The network's output, (rows, out_channels, h, w) in the dtype of x; computed in that of the parameters.

        The last five arrive as extras of the conditioning.

        Args:
            x: (rows, in_channels, h, w); rows are clips x frames, frames fastest.
            timesteps: the noise level, (rows,).
            context: (rows, tokens, context_dim), if the network has a context_dim.
            y: (rows, adm_in_channels) or one number per row, if the network has num_classes.
            time_context: (rows, tokens, time_context_dim), of which each clip's first row counts, or (clips, tokens,
                time_context_dim); if the network has a time_context_dim.
            num_video_frames: frames per clip, if not as the constructor said.
            image_only_indicator: not 0 for rows that are images and no frames of a video; (rows,) or (clips, frames).
            perturb, taps: about single blocks within an image, see `BlockRequests`.

        Raises:
            ValueError: something is missing or not wanted, or has the wrong shape.
        """
        self.check(x, timesteps, context, y)
        frames = frames_per_clip(len(x), num_video_frames, self.num_video_frames)
        check_tokens("time_context", time_context, self.time_context_dim, len(x), len(x) // frames)
        context = None if context is None else context.to(self.dtype)
        clip_context = None
        if time_context is not None:
            clip_context = (time_context[::frames] if len(time_context) == len(x) else time_context).to(self.dtype)
        elif self.use_spatial_context and context is not None:
            clip_context = context[::frames]
        clips = Clips(frames, one_per_row(image_only_indicator, len(x)), clip_context)
        return self.run(x, {"emb": self.embed(timesteps, y), "context": context, "clips": clips}, perturb, taps)
