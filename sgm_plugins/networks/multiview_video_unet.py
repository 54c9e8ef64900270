"""The U-Net of videos of a scene from several sides: SV4D."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le
from einops import rearrange
from torch import Tensor, nn

from sgm_core.shapes import Takes
from sgm_plugins.networks.alpha_blender import MergeStrategy
from sgm_plugins.networks.clips import Clips, check_tokens, frames_per_clip, one_per_row
from sgm_plugins.networks.label_embedding import Labels
from sgm_plugins.networks.levels import Count, Heads, Levels, Place, one_width
from sgm_plugins.networks.multiview_transformer import Motion, MultiviewTransformer
from sgm_plugins.networks.skeleton import Resample, UNetSkeleton
from sgm_plugins.networks.video_resblock import VideoResBlock, video_kernel
from sgm_plugins.networks.widths import unet_takes


class MultiviewVideoUNet(UNetSkeleton):
    """F(x; timesteps, context, y) for scenes, each a grid of frames and views of it.

    Xie et al. 2024, arXiv:2407.17470 (SV4D); Yao et al. 2025, arXiv:2503.16396 (SV4D 2.0). It is `video_unet` with the
    views for frames, as in SV3D, whose weights it can start from, and with transformers along the frames after those
    along the views. Rows of a batch are scenes x frames x views, views fastest. The layers of motion begin as the
    identity. The layers of motion and camera have names of their own: checkpoints of SV4D do not load.

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
        use_spatial_context: layers along the views attend to the context of the first view of their frame, layers along
            the frames to that of the first frame of their view.
        view_context_dim: width of the tokens of `cond_view`, which layers along the views attend to instead.
        motion_context_dim: width of the tokens of `cond_motion`, which layers along the frames attend to instead.
        use_motion_attention: whether there are layers along the frames; without them frames do not see each other.
        use_3d_attention: along the views, a cell attends to all cells of all views, not only to those at its place.
        camera_dim: width of `camera`, which tells layers along the views where each view is seen from; None: they are
            told the number of the view alone.
        merge_strategy: how layers within an image are mixed with those along views and frames.
        merge_factor: weight of the layers within an image; where it is learned, the number whose sigmoid it starts as.
        separate_motion_merge_factor: the weight is another one for the layers along the frames.
        video_kernel_size: of the convolutions along the views; one number, or (views, height, width). Odd.
        use_linear_in_transformer: linear projections into and out of the transformers, rather than 1x1 convolutions.
        adm_in_channels: width of y for num_classes "sequential".
        disable_temporal_crossattention: layers along views and frames attend to those alone, once.
        max_ddpm_temb_period: the longest wavelength over 2 pi of the sinusoids of view and frame numbers.
        num_video_frames: frames per scene, unless the call says otherwise.
        num_views: views per scene, unless the call says otherwise.

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
        use_spatial_context: bool = False,
        view_context_dim: Count | None = None,
        motion_context_dim: Count | None = None,
        use_motion_attention: bool = True,
        use_3d_attention: bool = False,
        camera_dim: Count | None = None,
        merge_strategy: MergeStrategy = "fixed",
        merge_factor: float = 0.5,
        separate_motion_merge_factor: bool = False,
        video_kernel_size: int | list[int] = 3,
        use_linear_in_transformer: bool = False,
        adm_in_channels: Count | None = None,
        disable_temporal_crossattention: bool = False,
        max_ddpm_temb_period: Annotated[float, Gt(0)] = 10000,
        num_video_frames: Count | None = None,
        num_views: Count | None = None,
    ) -> None:
        levels = Levels.plan(model_channels, channel_mult, num_res_blocks, attention_resolutions, transformer_depth)
        heads = Heads(num_heads, num_head_channels, num_heads_upsample)
        heads.check(attention_resolutions)
        kernel = video_kernel(video_kernel_size)
        context_width = one_width(context_dim)
        view_width = motion_width = context_width if use_spatial_context else None
        if use_spatial_context and context_width is None:
            raise ValueError("use_spatial_context, but context_dim is None: there is no context to attend to")
        view_width = view_width if view_context_dim is None else view_context_dim
        motion_width = motion_width if motion_context_dim is None else motion_context_dim
        if not use_motion_attention and (motion_context_dim is not None or separate_motion_merge_factor):
            raise ValueError(
                "use_motion_attention is off, but motion_context_dim or separate_motion_merge_factor is set: they are "
                "about layers that are not there"
            )
        if disable_temporal_crossattention and (view_context_dim is not None or motion_context_dim is not None):
            raise ValueError(
                "disable_temporal_crossattention leaves nothing that attends to a context of views or frames: leave "
                "view_context_dim and motion_context_dim out"
            )

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
            return MultiviewTransformer(
                merge_strategy,
                merge_factor,
                levels.widths[level],
                heads.at(levels.widths[level], place),
                levels.depth(level, place, transformer_depth_middle),
                context_width,
                use_linear_in_transformer,
                use_checkpoint,
                dropout,
                view_width,
                disable_temporal_crossattention,
                max_ddpm_temb_period,
                use_motion_attention,
                motion_width,
                separate_motion_merge_factor,
                use_3d_attention,
                camera_dim,
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
        self.view_context_dim, self.motion_context_dim = view_context_dim, motion_context_dim
        self.camera_dim = camera_dim
        self.num_video_frames, self.num_views = num_video_frames, num_views

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
        view_context_dim: int | None,
        motion_context_dim: int | None,
        camera_dim: int | None,
        adm_in_channels: int | None,
    ) -> dict[str, Takes]:
        levels = Levels.plan(model_channels, channel_mult, num_res_blocks, attention_resolutions, transformer_depth)
        middle = levels.depth(-1, "middle", transformer_depth_middle)
        return {
            **unet_takes(in_channels, levels, middle, context_dim, num_classes, adm_in_channels),
            "cond_view": Takes("view_context_dim", view_context_dim),
            "cond_motion": Takes("motion_context_dim", motion_context_dim),
            "camera": Takes("camera_dim", camera_dim),
        }

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        y: Tensor | None = None,
        cond_view: Tensor | None = None,
        cond_motion: Tensor | None = None,
        camera: Tensor | None = None,
        num_video_frames: int | None = None,
        num_views: int | None = None,
        image_only_indicator: Tensor | None = None,
        perturb: Mapping[str, Any] | None = None,
        taps: MutableMapping[str, Any] | None = None,
    ) -> Tensor:
        """The network's output, (rows, out_channels, h, w) in the dtype of x; computed in that of the parameters.

        All but the first four arrive as extras of the conditioning.

        Args:
            x: (rows, in_channels, h, w); rows are scenes x frames x views, views fastest.
            timesteps: the noise level, (rows,).
            context: (rows, tokens, context_dim), if the network has a context_dim.
            y: (rows, adm_in_channels) or one number per row, if the network has num_classes.
            cond_view: (rows, tokens, view_context_dim), if the network has that; the first view of each frame counts.
            cond_motion: (rows, tokens, motion_context_dim), if the network has that; the first frame of each view
                counts.
            camera: (rows, camera_dim), if the network has that: where the view is seen from.
            num_video_frames, num_views: of a scene, if not as the constructor said.
            image_only_indicator: not 0 for rows that are single images; (rows,), or any shape of as many entries.
            perturb, taps: about single blocks within an image, see `BlockRequests`.

        Raises:
            ValueError: something is missing or not wanted, or has the wrong shape.
        """
        self.check(x, timesteps, context, y)
        rows = len(x)
        views = frames_per_clip(rows, num_views, self.num_views, "num_views")
        frames = frames_per_clip(rows // views, num_video_frames, self.num_video_frames)
        check_tokens("cond_view", cond_view, self.view_context_dim, rows)
        check_tokens("cond_motion", cond_motion, self.motion_context_dim, rows)
        if (None if camera is None else tuple(camera.shape)) != (self.camera_dim and (rows, self.camera_dim)):
            raise ValueError(
                f"camera is {None if camera is None else tuple(camera.shape)}; this network takes "
                + ("none: set camera_dim" if self.camera_dim is None else f"({rows}, {self.camera_dim})")
            )
        context, cond_view, cond_motion, camera = (
            None if tensor is None else tensor.to(self.dtype) for tensor in (context, cond_view, cond_motion, camera)
        )
        if self.use_spatial_context:
            cond_view = context if cond_view is None else cond_view
            cond_motion = context if cond_motion is None else cond_motion
        first_frame = None
        if cond_motion is not None:
            first_frame = rearrange(cond_motion, "(s f v) m d -> s f v m d", f=frames, v=views)[:, 0].flatten(0, 1)
        clips = Clips(views, one_per_row(image_only_indicator, rows), None if cond_view is None else cond_view[::views])
        motion = Motion(frames, first_frame, camera)
        given = {"emb": self.embed(timesteps, y), "context": context, "clips": clips, "motion": motion}
        return self.run(x, given, perturb, taps)
