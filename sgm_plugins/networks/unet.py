"""The U-Net of latent diffusion, in all the forms of the public Stable Diffusion and SDXL models."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Annotated, Any

from annotated_types import Ge, Le
from torch import Tensor, nn

from sgm_core.shapes import Takes
from sgm_plugins.networks.convolution import Dims
from sgm_plugins.networks.label_embedding import Labels
from sgm_plugins.networks.levels import Count, Heads, Levels, Place, one_width, per_level
from sgm_plugins.networks.resblock import ResBlock
from sgm_plugins.networks.skeleton import Resample, UNetSkeleton
from sgm_plugins.networks.spatial_transformer import SpatialTransformer
from sgm_plugins.networks.widths import unet_takes


class UNet(UNetSkeleton):
    """F(x; timesteps, context, y): residual blocks over halving and doubling resolutions, with attention.

    Ho et al. 2020, arXiv:2006.11239 (the U-Net); Dhariwal & Nichol 2021, arXiv:2105.05233 (its refinements);
    Rombach et al. 2022, arXiv:2112.10752 (transformers with a context). Parameters are named as in the public
    checkpoints. The output is zero at initialization. Any size of grid works: an odd side is halved rounding up.

    A level is one resolution; level i works on `model_channels * channel_mult[i]` channels at 1 / 2**i of the size.

    Args:
        in_channels: of x, concatenated conditioning included.
        model_channels: width of the first level; a multiple of 32.
        out_channels: of the result.
        num_res_blocks: residual blocks per level, one number or one per level; one more on the way up.
        attention_resolutions: the downsampling factors (1, 2, 4, ...; not sizes) whose levels have transformers. The
            middle block has one in any case, see `disable_middle_transformer`.
        dropout: in the residual blocks.
        channel_mult: the width of each level in `model_channels`; its length is the number of levels.
        conv_resample: resample with learned convolutions, rather than by means and nearest neighbours.
        dims: axes of the grid. Three are (frames, height, width), and frames are not resampled.
        num_classes: what y is: class indices below this number; or "continuous", a real number; "timestep", a number in
            the range of timesteps; "sequential", a vector of `adm_in_channels`. None: the network takes no y.
        use_checkpoint: recompute the activations of each block in the backward pass, to save memory.
        num_heads: heads of every attention, unless `num_head_channels` is given; -1 is unset.
        num_head_channels: width of a head; -1 is unset. With both unset, `attention_resolutions` must be empty and the
            middle block attends with one head.
        num_heads_upsample: `num_heads` of the way up; -1: the same.
        use_scale_shift_norm: the embedding of noise level and y scales and shifts, rather than shifts only.
        resblock_updown: resample in residual blocks.
        transformer_depth: blocks per transformer, one number or one per level; the middle block has the last level's.
        context_dim: width of the context's tokens. A list, as public configs have it, repeats one number: there is one
            context for all transformers. None: the network takes no context and every attention is to the grid.
        disable_self_attentions: per level, attend to the context alone.
        num_attention_blocks: per level, how many of its residual blocks are followed by a transformer; None: all.
        disable_middle_self_attn: in the middle block, attend to the context alone.
        disable_middle_transformer: no transformer in the middle block.
        use_linear_in_transformer: linear projections into and out of the transformers, rather than 1x1 convolutions.
        adm_in_channels: width of y for num_classes "sequential".

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
        dims: Dims = 2,
        num_classes: Labels | None = None,
        use_checkpoint: bool = False,
        num_heads: int = -1,
        num_head_channels: int = -1,
        num_heads_upsample: int = -1,
        use_scale_shift_norm: bool = False,
        resblock_updown: bool = False,
        transformer_depth: int | list[int] = 1,
        context_dim: int | list[int] | None = None,
        disable_self_attentions: list[bool] | None = None,
        num_attention_blocks: list[int] | None = None,
        disable_middle_self_attn: bool = False,
        disable_middle_transformer: bool = False,
        use_linear_in_transformer: bool = False,
        adm_in_channels: Count | None = None,
    ) -> None:
        levels = Levels.plan(
            model_channels,
            channel_mult,
            num_res_blocks,
            attention_resolutions,
            transformer_depth,
            num_attention_blocks,
        )
        heads = Heads(num_heads, num_head_channels, num_heads_upsample)
        heads.check(attention_resolutions)
        context_width = one_width(context_dim)
        context_only = [0] * len(levels.widths)
        if disable_self_attentions is not None:
            context_only = per_level("disable_self_attentions", disable_self_attentions, len(levels.widths), least=0)
        if context_width is None and (any(context_only) or disable_middle_self_attn):
            raise ValueError("context_dim is None: with self-attention disabled there is nothing to attend to")

        def residual(channels: int, out: int, resample: Resample | None) -> nn.Module:
            return ResBlock(
                channels, 4 * model_channels, out, dropout, dims, use_scale_shift_norm, resample, use_checkpoint
            )

        def transformer(level: int, place: Place) -> nn.Module:
            if place == "middle" and disable_middle_transformer:
                return nn.Identity()
            return SpatialTransformer(
                levels.widths[level],
                heads.at(levels.widths[level], place),
                levels.depths[level],
                context_width,
                dims,
                disable_middle_self_attn if place == "middle" else bool(context_only[level]),
                use_linear_in_transformer,
                use_checkpoint,
            )

        super().__init__(
            in_channels,
            out_channels,
            levels,
            dims,
            context_width,
            num_classes,
            adm_in_channels,
            conv_resample,
            residual,
            transformer,
            resblock_updown,
        )

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
        context_dim: int | list[int] | None,
        num_attention_blocks: list[int] | None,
        disable_middle_transformer: bool,
        adm_in_channels: int | None,
    ) -> dict[str, Takes]:
        levels = Levels.plan(
            model_channels,
            channel_mult,
            num_res_blocks,
            attention_resolutions,
            transformer_depth,
            num_attention_blocks,
        )
        middle = 0 if disable_middle_transformer else levels.depths[-1]
        return unet_takes(in_channels, levels, middle, context_dim, num_classes, adm_in_channels)

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        y: Tensor | None = None,
        perturb: Mapping[str, Any] | None = None,
        taps: MutableMapping[str, Any] | None = None,
    ) -> Tensor:
        """The network's output, (b, out_channels, *grid) in the dtype of x; computed in that of the parameters.

        Args:
            x: (b, in_channels, *grid).
            timesteps: the noise level as the denoiser tells it, (b,), integer or not.
            context: (b, tokens, context_dim), if the network has a context_dim.
            y: (b, adm_in_channels) or one number per sample, if the network has num_classes.
            perturb, taps: extras of the conditioning about single blocks, see `BlockRequests`.

        Raises:
            ValueError: context or y is missing or not wanted, something has the wrong shape, or a block is not there.
        """
        self.check(x, timesteps, context, y)
        emb = self.embed(timesteps, y)
        return self.run(x, {"emb": emb, "context": None if context is None else context.to(self.dtype)}, perturb, taps)
