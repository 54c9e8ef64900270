"""The U-Net of latent diffusion, in all the forms of the public Stable Diffusion and SDXL models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from sgm_plugins.networks.conditioned_sequential import ConditionedSequential
from sgm_plugins.networks.convolution import Dims, conv
from sgm_plugins.networks.group_norm import GROUPS, GroupNorm
from sgm_plugins.networks.label_embedding import Labels, label_embedding, mlp
from sgm_plugins.networks.resample import Downsample, Upsample
from sgm_plugins.networks.resblock import ResBlock
from sgm_plugins.networks.spatial_transformer import SpatialTransformer, TransformerBlock
from sgm_plugins.sinusoidal import timestep_embedding

Count = Annotated[int, Ge(1)]


class UNet(nn.Module):
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
        super().__init__()
        channel_mult, attention_resolutions = list(channel_mult), list(attention_resolutions)
        widths = [model_channels * mult for mult in channel_mult]
        levels = len(widths)
        factors = [2**level for level in range(levels)]
        res_blocks = _per_level("num_res_blocks", num_res_blocks, levels, least=1)
        depths = _per_level("transformer_depth", transformer_depth, levels, least=0)
        context_width = _one_width(context_dim)
        if not levels or any(width < 1 or width % GROUPS for width in [model_channels, *widths]):
            raise ValueError(
                f"model_channels {model_channels} and channel_mult {channel_mult} give levels of {widths} channels; "
                f"there must be one or more, each of a multiple of {GROUPS}, and so must model_channels be"
            )
        if not set(attention_resolutions) <= set(factors):
            raise ValueError(
                f"attention_resolutions is {attention_resolutions}; the {levels} levels of this network have the "
                f"downsampling factors {factors}"
            )
        transformers = [n + 1 for n in res_blocks]  # per level, at most; the way up has one more block
        if num_attention_blocks is not None:
            transformers = _per_level("num_attention_blocks", num_attention_blocks, levels, least=0)
            if any(n > most for n, most in zip(transformers, res_blocks, strict=True)):
                raise ValueError(f"num_attention_blocks {transformers} exceeds num_res_blocks {res_blocks}")
        context_only = [False] * levels
        if disable_self_attentions is not None:
            context_only = [bool(v) for v in _per_level("disable_self_attentions", disable_self_attentions, levels, 0)]
        if context_width is None and (any(context_only) or disable_middle_self_attn):
            raise ValueError("context_dim is None: with self-attention disabled there is nothing to attend to")
        if any(n != -1 and n < 1 for n in (num_heads, num_head_channels, num_heads_upsample)):
            raise ValueError(
                f"num_heads {num_heads}, num_head_channels {num_head_channels}, num_heads_upsample "
                f"{num_heads_upsample}: each is at least 1, or -1 for unset"
            )
        if attention_resolutions and num_heads == num_head_channels == -1:
            raise ValueError(
                f"attention_resolutions is {attention_resolutions}, and num_heads and num_head_channels are both unset "
                "(-1): set one of them"
            )

        self.in_channels, self.model_channels, self.dims = in_channels, model_channels, dims
        self.context_dim = context_width
        emb_channels = 4 * model_channels

        def block(channels: int, out: int, resample: Literal["up", "down"] | None = None) -> nn.Module:
            return ResBlock(channels, emb_channels, out, dropout, dims, use_scale_shift_norm, resample, use_checkpoint)

        def transformer(level: int, heads: int, context_only: bool) -> nn.Module:
            return SpatialTransformer(
                widths[level],
                _num_heads(widths[level], heads, num_head_channels),
                depths[level],
                context_width,
                dims,
                context_only,
                use_linear_in_transformer,
                use_checkpoint,
            )

        def layers(level: int, i: int, channels: int, heads: int) -> list[nn.Module]:
            """Residual block number i of a level, and its transformer if it has one."""
            residual = block(channels, widths[level])
            if factors[level] in attention_resolutions and i < transformers[level]:
                return [residual, transformer(level, heads, context_only[level])]
            return [residual]

        self.time_embed = mlp(model_channels, emb_channels)
        self.label_emb = None
        if num_classes is not None:
            self.label_emb = label_embedding(num_classes, emb_channels, model_channels, adm_in_channels)
        elif adm_in_channels is not None:
            raise ValueError(f"adm_in_channels is {adm_in_channels} without num_classes: 'sequential'")

        down = [ConditionedSequential(conv(dims, in_channels, model_channels, 3))]
        channels, skips = model_channels, [model_channels]
        for level, width in enumerate(widths):
            for i in range(res_blocks[level]):
                down.append(ConditionedSequential(*layers(level, i, channels, num_heads)))
                channels = width
                skips.append(channels)
            if level < levels - 1:
                halve = block(width, width, "down") if resblock_updown else Downsample(width, dims, conv_resample)
                down.append(ConditionedSequential(halve))
                skips.append(channels)
        self.input_blocks = nn.ModuleList(down)

        self.middle_block = ConditionedSequential(
            block(channels, channels),
            nn.Identity()
            if disable_middle_transformer
            else transformer(levels - 1, num_heads, disable_middle_self_attn),
            block(channels, channels),
        )

        up, heads_up = [], num_heads if num_heads_upsample == -1 else num_heads_upsample
        for level, width in reversed(list(enumerate(widths))):
            for i in range(res_blocks[level] + 1):
                row = layers(level, i, channels + skips.pop(), heads_up)
                channels = width
                if level and i == res_blocks[level]:
                    row.append(block(width, width, "up") if resblock_updown else Upsample(width, dims, conv_resample))
                up.append(ConditionedSequential(*row))
        self.output_blocks = nn.ModuleList(up)

        self.out = nn.Sequential(GroupNorm(channels), nn.SiLU(), conv(dims, channels, out_channels, 3, zero=True))

        self.attends = any(isinstance(module, TransformerBlock) for module in self.modules())

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        """The network's output, (b, out_channels, *grid) in the dtype of x; computed in that of the parameters.

        Args:
            x: (b, in_channels, *grid).
            timesteps: the noise level as the denoiser tells it, (b,), integer or not.
            context: (b, tokens, context_dim), if the network has a context_dim.
            y: (b, adm_in_channels) or one number per sample, if the network has num_classes.

        Raises:
            ValueError: context or y is missing or not wanted, or something has the wrong shape.
        """
        self._check(x, timesteps, context, y)
        dtype = next(self.time_embed.parameters()).dtype
        emb = self.time_embed(timestep_embedding(timesteps, self.model_channels).to(dtype))
        if self.label_emb is not None:
            emb = emb + self.label_emb(y)
        context = None if context is None else context.to(dtype)

        h, skips = x.to(dtype), []
        for module in self.input_blocks:
            h = module(h, emb, context)
            skips.append(h)
        h = self.middle_block(h, emb, context)
        for module in self.output_blocks:
            skip = skips.pop()
            if h.shape[2:] != skip.shape[2:]:  # an odd side was rounded up
                h = h[(..., *(slice(size) for size in skip.shape[2:]))]
            h = module(torch.cat([h, skip], dim=1), emb, context)
        output: Tensor = self.out(h).to(x.dtype)
        return output

    def _check(self, x: Tensor, timesteps: Tensor, context: Tensor | None, y: Tensor | None) -> None:
        if x.ndim != 2 + self.dims or x.shape[1] != self.in_channels:
            raise ValueError(
                f"x is {tuple(x.shape)}; this network takes (b, {self.in_channels}) and {self.dims} axes of grid, with "
                "concatenated conditioning counted in in_channels"
            )
        if timesteps.shape != x.shape[:1]:
            raise ValueError(f"timesteps is {tuple(timesteps.shape)} for a batch of {x.shape[0]}: give one per sample")
        if (y is None) != (self.label_emb is None):
            raise ValueError(
                "y is missing: this network has num_classes and needs a vector conditioning"
                if y is None
                else f"y is {tuple(y.shape)}, but this network takes none: set num_classes, or leave the embedder out"
            )
        if y is not None and y.shape[:1] != x.shape[:1]:
            raise ValueError(f"y is {tuple(y.shape)} for a batch of {x.shape[0]}")
        if context is None:
            if self.context_dim is not None and self.attends:
                raise ValueError(f"context is missing: this network attends to one, (b, tokens, {self.context_dim})")
            return
        if self.context_dim is None or not self.attends:
            raise ValueError(
                f"context is {tuple(context.shape)}, but this network attends to none: set context_dim, or leave the "
                "embedder out"
            )
        if context.ndim != 3 or context.shape[0] != x.shape[0] or context.shape[2] != self.context_dim:
            raise ValueError(
                f"context is {tuple(context.shape)}; this network takes ({x.shape[0]}, tokens, {self.context_dim})"
            )


def _per_level(name: str, value: int | Sequence[int], levels: int, least: int) -> list[int]:
    """One value for each level.

    Raises:
        ValueError: not one number, nor as many as there are levels, or a number below `least`.
    """
    values = [value] * levels if isinstance(value, int) else list(value)
    if len(values) != levels or isinstance(value, bool):
        raise ValueError(f"{name} is {value}; channel_mult has {levels} levels: give {levels} values")
    if min(values, default=least) < least:
        raise ValueError(f"{name} is {value}; each is at least {least}")
    return values


def _one_width(context_dim: int | Sequence[int] | None) -> int | None:
    """The one width of the context's tokens.

    Raises:
        ValueError: there are several.
    """
    if context_dim is None or isinstance(context_dim, int):
        return context_dim
    if len(set(context_dim)) != 1:
        raise ValueError(
            f"context_dim is {list(context_dim)}; there is one context for all transformers: give one number"
        )
    return context_dim[0]


def _num_heads(channels: int, num_heads: int, num_head_channels: int) -> int:
    """How many heads a transformer of so many channels has.

    Raises:
        ValueError: they would not be of equal width.
    """
    if num_head_channels != -1:
        if channels % num_head_channels:
            raise ValueError(f"num_head_channels {num_head_channels} does not divide a level's {channels} channels")
        return channels // num_head_channels
    heads = 1 if num_heads == -1 else num_heads
    if channels % heads:
        raise ValueError(f"num_heads {heads} does not divide a level's {channels} channels")
    return heads
