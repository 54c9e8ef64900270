"""What the latent U-Nets have in common: the path down and up again, the skip connections, the checks of the inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from sgm_plugins.networks.conditioned_sequential import ConditionedSequential
from sgm_plugins.networks.convolution import Dims, conv
from sgm_plugins.networks.group_norm import GroupNorm
from sgm_plugins.networks.label_embedding import Labels, label_embedding, mlp
from sgm_plugins.networks.levels import Levels, Place
from sgm_plugins.networks.named_blocks import BlockRequests
from sgm_plugins.networks.resample import Downsample, Upsample
from sgm_plugins.networks.resblock import ResBlock
from sgm_plugins.networks.spatial_transformer import SpatialTransformer, TransformerBlock
from sgm_plugins.sinusoidal import timestep_embedding

Resample = Literal["up", "down"]
ResidualFactory = Callable[[int, int, Resample | None], nn.Module]
"""(channels in, channels out, resample) -> a residual block."""
TransformerFactory = Callable[[int, Place], nn.Module]
"""(level, place) -> a transformer of the level's width."""


class UNetSkeleton(nn.Module):
    """The frame of a U-Net, which a network fills with its blocks and calls with what they ask for.

    Args:
        in_channels, out_channels: of the network.
        levels: the plan.
        dims: axes of the grid.
        context_dim: width of the context's tokens, if the network takes a context.
        num_classes, adm_in_channels: what y is, see `label_embedding`.
        conv_resample: resample with learned convolutions.
        residual: makes a residual block.
        transformer: makes a transformer.
        resblock_updown: resample in residual blocks.

    Raises:
        ValueError: arguments that do not fit each other.
    """

    compile_regions: ClassVar[tuple[type[nn.Module], ...]] = (ResBlock, TransformerBlock)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        levels: Levels,
        dims: Dims,
        context_dim: int | None,
        num_classes: Labels | None,
        adm_in_channels: int | None,
        conv_resample: bool,
        residual: ResidualFactory,
        transformer: TransformerFactory,
        resblock_updown: bool,
    ) -> None:
        super().__init__()
        self.in_channels, self.model_channels, self.dims = in_channels, levels.stem, dims
        self.context_dim = context_dim
        emb_channels = 4 * levels.stem

        def layers(level: int, i: int, channels: int, place: Place) -> list[nn.Module]:
            """Residual block number i of a level, and its transformer if it has one."""
            block = residual(channels, levels.widths[level], None)
            return [block, transformer(level, place)] if i < levels.transformers[level] else [block]

        self.time_embed = mlp(levels.stem, emb_channels)
        self.label_emb = None
        if num_classes is not None:
            self.label_emb = label_embedding(num_classes, emb_channels, levels.stem, adm_in_channels)
        elif adm_in_channels is not None:
            raise ValueError(f"adm_in_channels is {adm_in_channels} without num_classes: 'sequential'")

        last = len(levels.widths) - 1
        down = [ConditionedSequential(conv(dims, in_channels, levels.stem, 3))]
        channels, skips = levels.stem, [levels.stem]
        for level, width in enumerate(levels.widths):
            for i in range(levels.res_blocks[level]):
                down.append(ConditionedSequential(*layers(level, i, channels, "down")))
                channels = width
                skips.append(channels)
            if level < last:
                halve = residual(width, width, "down") if resblock_updown else Downsample(width, dims, conv_resample)
                down.append(ConditionedSequential(halve))
                skips.append(channels)
        self.input_blocks = nn.ModuleList(down)

        self.middle_block = ConditionedSequential(
            residual(channels, channels, None), transformer(last, "middle"), residual(channels, channels, None)
        )

        up = []
        for level, width in reversed(list(enumerate(levels.widths))):
            for i in range(levels.res_blocks[level] + 1):
                row = layers(level, i, channels + skips.pop(), "up")
                channels = width
                if level and i == levels.res_blocks[level]:
                    row.append(
                        residual(width, width, "up") if resblock_updown else Upsample(width, dims, conv_resample)
                    )
                up.append(ConditionedSequential(*row))
        self.output_blocks = nn.ModuleList(up)

        self.out = nn.Sequential(GroupNorm(channels), nn.SiLU(), conv(dims, channels, out_channels, 3, zero=True))

        self.attends = any(isinstance(module, TransformerBlock) for module in self.modules())

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in."""
        return next(self.time_embed.parameters()).dtype

    def embed(self, timesteps: Tensor, y: Tensor | None) -> Tensor:
        """The embedding of noise level (b,) and y, (b, 4 * model_channels), that every residual block is told."""
        emb: Tensor = self.time_embed(timestep_embedding(timesteps, self.model_channels).to(self.dtype))
        return emb if self.label_emb is None else emb + self.label_emb(y)

    def run(
        self,
        x: Tensor,
        given: Mapping[str, Any],
        perturb: Mapping[str, Any] | None = None,
        taps: MutableMapping[str, Any] | None = None,
    ) -> Tensor:
        """x (b, in_channels, *grid) through all blocks, each given what it asks for, -> (b, out_channels, *grid).

        Raises:
            ValueError: `perturb` or `taps` name a block that there is not, see `BlockRequests`.
        """
        requests = None
        if perturb is not None or taps is not None:
            places = self.places()
            blocks = [name for name, module in places.items() if isinstance(module, TransformerBlock)]
            requests = BlockRequests(places, blocks, perturb, taps)
        given = {**given, "requests": requests}
        h, skips = x.to(self.dtype), []
        for module in self.input_blocks:
            h = module(h, given)
            skips.append(h)
            if requests is not None:
                requests.keep(module, h)
        h = self.middle_block(h, given)
        if requests is not None:
            requests.keep(self.middle_block, h)
        for module in self.output_blocks:
            skip = skips.pop()
            if h.shape[2:] != skip.shape[2:]:  # an odd side was rounded up
                h = h[(..., *(slice(size) for size in skip.shape[2:]))]
            h = module(torch.cat([h, skip], dim=1), given)
            if requests is not None:
                requests.keep(module, h)
        output: Tensor = self.out(h).to(x.dtype)
        return output

    def places(self) -> dict[str, nn.Module]:
        """The modules that `perturb` and `taps` can name, in the order in which they run: `input_blocks.4`, its layer
        `input_blocks.4.1`, and that one's block `input_blocks.4.1.transformer_blocks.0`."""
        rows = [(f"input_blocks.{i}", row) for i, row in enumerate(self.input_blocks)]
        rows += [("middle_block", self.middle_block)]
        rows += [(f"output_blocks.{i}", row) for i, row in enumerate(self.output_blocks)]
        places: dict[str, nn.Module] = {}
        for name, row in rows:
            places[name] = row
            for i, layer in row.named_children():
                places[f"{name}.{i}"] = layer
                if isinstance(layer, SpatialTransformer):
                    blocks = layer.transformer_blocks.named_children()
                    places |= {f"{name}.{i}.transformer_blocks.{j}": block for j, block in blocks}
        return places

    def check(self, x: Tensor, timesteps: Tensor, context: Tensor | None, y: Tensor | None) -> None:
        """
        Raises:
            ValueError: context or y is missing or not wanted, or something has the wrong shape.
        """
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
