"""Attention within the images of a grid of views and frames, along the views, and along the frames."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from einops import rearrange, repeat
from torch import Tensor, nn

from sgm_plugins.networks.alpha_blender import AlphaBlender, MergeStrategy
from sgm_plugins.networks.clips import Clips
from sgm_plugins.networks.convolution import zeroed
from sgm_plugins.networks.label_embedding import mlp
from sgm_plugins.networks.named_blocks import BlockRequests
from sgm_plugins.networks.spatial_transformer import TransformerBlock, as_requested
from sgm_plugins.networks.video_transformer import PositionEmbedding, SpatialVideoTransformer


class Motion(NamedTuple):
    """What a transformer is told about the frames and the cameras, beside the views.

    Attributes:
        frames: per scene.
        context: (scenes * views, tokens, d), what motion attention looks at beside the frames.
        camera: (rows, camera_dim), where the view is seen from.
    """

    frames: int
    context: Tensor | None = None
    camera: Tensor | None = None


class MultiviewTransformer(SpatialVideoTransformer):
    """A `SpatialVideoTransformer` along the views, as in SV3D, and then along the frames: motion attention.

    Xie et al. 2024, arXiv:2407.17470 (SV4D); Yao et al. 2025, arXiv:2503.16396 (3-D attention, merging). The layers of
    motion begin as the identity, so that a model of still scenes can be extended by them. Rows are scenes x frames x
    views, views fastest.

    Args:
        merge_strategy, merge_factor: of the mixture with the layers along the views, see `AlphaBlender`.
        channels, num_heads, depth, context_dim, use_linear, use_checkpoint, dropout: see `SpatialTransformer`.
        view_context_dim: width of the tokens that attention along the views looks at, if any.
        disable_temporal_crossattention: no second attention along views or frames.
        max_period: of the sinusoids that tell the number of view or frame.
        use_motion_attention: whether there are layers along the frames.
        motion_context_dim: width of the tokens that attention along the frames looks at, if any.
        separate_motion_merge_factor: those have a mixture of their own.
        use_3d_attention: along the views, each cell attends to all cells of all views, not only to those at its place.
        camera_dim: width of the camera's description, which is added to the number of the view, if any.
    """

    asks: ClassVar[tuple[str, ...]] = ("context", "clips", "motion", "requests")

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
        view_context_dim: int | None = None,
        disable_temporal_crossattention: bool = False,
        max_period: float = 10000,
        use_motion_attention: bool = True,
        motion_context_dim: int | None = None,
        separate_motion_merge_factor: bool = False,
        use_3d_attention: bool = False,
        camera_dim: int | None = None,
    ) -> None:
        super().__init__(
            merge_strategy,
            merge_factor,
            channels,
            num_heads,
            depth,
            context_dim,
            use_linear,
            use_checkpoint,
            dropout,
            view_context_dim,
            disable_temporal_crossattention,
            max_period,
        )
        self.use_3d_attention = use_3d_attention
        self.camera_embed = None
        if camera_dim is not None:
            self.camera_embed = mlp(camera_dim, channels)
            zeroed(self.camera_embed[-1])
        self.motion_stack = self.motion_pos_embed = self.motion_mixer = None
        if use_motion_attention:
            self.motion_stack = nn.ModuleList(
                beginning_as_identity(
                    TransformerBlock(
                        channels,
                        num_heads,
                        motion_context_dim,
                        use_checkpoint=use_checkpoint,
                        dropout=dropout,
                        feed_forward_first=True,
                        cross_attention=not disable_temporal_crossattention,
                    )
                )
                for _ in range(depth)
            )
            self.motion_pos_embed = PositionEmbedding(channels, max_period)
            zeroed(self.motion_pos_embed[-1])
            if separate_motion_merge_factor:
                self.motion_mixer = AlphaBlender(merge_strategy, merge_factor)

    def forward(  # type: ignore[override]
        self, x: Tensor, context: Tensor | None, clips: Clips, motion: Motion, requests: BlockRequests | None = None
    ) -> Tensor:
        """x (rows, channels, h, w), context (rows, m, context_dim), clips of views -> like x."""
        h = self.tokens(x)  # (rows, n, c)
        for i, block in enumerate(self.transformer_blocks):
            h = as_requested(requests, block, h, context)
            h = self.time_mixer(h, self._along_views(i, h, clips, motion), clips.image_only)
            if self.motion_stack is not None:
                mixer = self.time_mixer if self.motion_mixer is None else self.motion_mixer
                h = mixer(h, self._along_frames(i, h, clips, motion), clips.image_only)
        return x + self.grid(h, x)

    def _along_views(self, i: int, h: Tensor, clips: Clips, motion: Motion) -> Tensor:
        views, n = clips.frames, h.shape[1]
        h = h + repeat(self.time_pos_embed(views), "v c -> (s v) 1 c", s=len(h) // views)
        if self.camera_embed is not None:
            h = h + self.camera_embed(motion.camera)[:, None]
        if self.use_3d_attention:
            h = self.time_stack[i](rearrange(h, "(s v) n c -> s (v n) c", v=views), clips.context)
            return rearrange(h, "s (v n) c -> (s v) n c", v=views)
        h = self.time_stack[i](rearrange(h, "(s v) n c -> (s n) v c", v=views), clips.context)
        return rearrange(h, "(s n) v c -> (s v) n c", n=n)

    def _along_frames(self, i: int, h: Tensor, clips: Clips, motion: Motion) -> Tensor:
        assert self.motion_stack is not None
        assert self.motion_pos_embed is not None
        views, n = clips.frames, h.shape[1]
        h = rearrange(h, "(s f v) n c -> (s v n) f c", f=motion.frames, v=views)
        h = self.motion_stack[i](h + self.motion_pos_embed(motion.frames), motion.context)
        return rearrange(h, "(s v n) f c -> (s f v) n c", v=views, n=n)


def beginning_as_identity(block: TransformerBlock) -> TransformerBlock:
    """The block, with the last layer of each residual branch set to zero."""
    for attention in (block.attn1, block.attn2):
        if attention is not None:
            zeroed(attention.to_out[0])
    for feed_forward in (block.ff_in, block.ff):
        if feed_forward is not None:
            zeroed(feed_forward.net[-1])
    return block
