"""The U-Net of DDPM, for images in pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping, Sequence
from itertools import zip_longest
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from sgm_core.shapes import Takes
from sgm_plugins.networks.checkpointing import checkpointed
from sgm_plugins.networks.convolution import conv
from sgm_plugins.networks.ddpm_blocks import (
    EPS,
    AttentionType,
    AttnBlock,
    Downsample,
    LinearAttnBlock,
    ResnetBlock,
    Upsample,
    attention_block,
)
from sgm_plugins.networks.group_norm import GROUPS, GroupNorm
from sgm_plugins.networks.levels import Count
from sgm_plugins.networks.named_blocks import BlockRequests


class DDPMUNet(nn.Module):
    """F(x; timesteps): residual blocks over halving and doubling resolutions, told nothing but the noise level.

    Ho et al. 2020, arXiv:2006.11239, with the parameter names of latent diffusion's code. Conditioning, if any, is
    concatenated to x. The output is zero at initialization. Any size of image works: an odd side is halved rounding
    down, its edge repeated on the way up.

    Args:
        ch: width of the first level; a multiple of 32.
        out_ch: channels of the result.
        num_res_blocks: residual blocks per level; one more on the way up.
        attn_resolutions: sizes of the image at which the residual blocks are followed by attention, for images of
            `resolution`. The middle has attention in any case, see `attn_type`.
        in_channels: of x, concatenated conditioning included.
        resolution: size of the images; `attn_resolutions` are relative to it, and images of other sizes work too.
        ch_mult: the width of each level in `ch`; its length is the number of levels.
        dropout: in the residual blocks.
        resamp_with_conv: resample with learned convolutions, rather than by means and nearest neighbours.
        attn_type: the attention everywhere.
        use_checkpoint: recompute the activations of each block in the backward pass, to save memory.

    Raises:
        ValueError: arguments that do not fit each other; the message has the numbers.
    """

    compile_regions: ClassVar[tuple[type[nn.Module], ...]] = (ResnetBlock, AttnBlock, LinearAttnBlock)

    def __init__(
        self,
        ch: Count,
        out_ch: Count,
        num_res_blocks: Count,
        attn_resolutions: list[int],
        in_channels: Count,
        resolution: Count,
        ch_mult: list[int] = [1, 2, 4, 8],  # noqa: B006 - the type that the schema shows; never changed
        dropout: Annotated[float, Ge(0), Le(1)] = 0.0,
        resamp_with_conv: bool = True,
        attn_type: AttentionType = "vanilla",
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        widths = [ch * mult for mult in ch_mult]
        sizes = [resolution // 2**level for level in range(len(widths))]
        if not widths or any(width < 1 or width % GROUPS for width in [ch, *widths]):
            raise ValueError(
                f"ch {ch} and ch_mult {list(ch_mult)} give levels of {widths} channels; there must be one or more, "
                f"each of a multiple of {GROUPS}, and so must ch be"
            )
        if not set(attn_resolutions) <= set(sizes):
            raise ValueError(
                f"attn_resolutions is {list(attn_resolutions)}; for resolution {resolution} the levels have the sizes "
                f"{sizes}"
            )
        self.in_channels, self.num_res_blocks = in_channels, num_res_blocks
        temb_channels, last = 4 * ch, len(widths) - 1

        def block(channels: int, out: int) -> nn.Module:
            return ResnetBlock(channels, out, temb_channels, dropout)

        def attention(level: int) -> list[nn.Module]:
            return [attention_block(attn_type, widths[level])] if sizes[level] in attn_resolutions else []

        self.temb = TimestepEmbedding(ch, temb_channels)
        self.conv_in = nn.Conv2d(in_channels, ch, 3, padding=1)

        down, channels, skips = [], ch, [ch]
        for level, width in enumerate(widths):
            blocks, attentions = [], []
            for _ in range(num_res_blocks):
                blocks.append(block(channels, width))
                attentions += attention(level)
                channels = width
            skips += [width] * num_res_blocks + ([width] if level < last else [])
            halve = Downsample(width, resamp_with_conv) if level < last else None
            down.append(DownStage(blocks, attentions, halve, use_checkpoint))
        self.down = nn.ModuleList(down)

        self.mid = Middle(
            block(channels, channels), attention_block(attn_type, channels), block(channels, channels), use_checkpoint
        )

        up = []
        for level, width in reversed(list(enumerate(widths))):
            blocks, attentions = [], []
            for _ in range(num_res_blocks + 1):
                blocks.append(block(channels + skips.pop(), width))
                attentions += attention(level)
                channels = width
            double = Upsample(width, use_conv=resamp_with_conv) if level else None
            up.append(UpStage(blocks, attentions, double, use_checkpoint))
        self.up = nn.ModuleList(reversed(up))

        self.norm_out = GroupNorm(channels, eps=EPS)
        self.conv_out = conv(2, channels, out_ch, 3, zero=True)

    @staticmethod
    def shapes(*, in_channels: int) -> dict[str, Takes]:
        return {"x": Takes("in_channels", in_channels), "context": Takes("", None), "y": Takes("", None)}

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        y: Tensor | None = None,
        perturb: Mapping[str, Any] | None = None,
        taps: MutableMapping[str, Any] | None = None,
    ) -> Tensor:
        """The network's output, (b, out_ch, h, w) in the dtype of x; computed in that of the parameters.

        Args:
            x: (b, in_channels, h, w).
            timesteps: the noise level as the denoiser tells it, (b,), integer or not.
            context, y: not taken.
            perturb, taps: extras of the conditioning about single blocks, see `BlockRequests`.

        Raises:
            ValueError: context or y is given, something has the wrong shape, or a block is not there.
        """
        for name, value in (("context", context), ("y", y)):
            if value is not None:
                raise ValueError(
                    f"{name} is {tuple(value.shape)}, but this network takes none: give the embedder the output "
                    "'concat', or leave it out"
                )
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"x is {tuple(x.shape)}; this network takes (b, {self.in_channels}, h, w), with concatenated "
                "conditioning counted in in_channels"
            )
        if timesteps.shape != x.shape[:1]:
            raise ValueError(f"timesteps is {tuple(timesteps.shape)} for a batch of {x.shape[0]}: give one per sample")
        if min(x.shape[2:]) < 2 ** (len(self.down) - 1):
            raise ValueError(f"x is {tuple(x.shape)}: too small to be halved {len(self.down) - 1} times")

        requests = None
        if perturb is not None or taps is not None:
            places = self.places()
            attentions = [name for name, module in places.items() if isinstance(module, AttnBlock)]
            requests = BlockRequests(places, attentions, perturb, taps)
        temb = self.temb(timesteps)
        skips = [self.conv_in(x.to(self.conv_in.weight.dtype))]
        for stage in self.down:
            skips += stage(skips[-1], temb, requests)
        h = self.mid(skips[-1], temb, requests)
        for stage in reversed(self.up):
            n = self.num_res_blocks + 1
            h, skips = stage(h, temb, skips[-n:], requests), skips[:-n]
        output: Tensor = self.conv_out(silu(self.norm_out(h))).to(x.dtype)
        return output

    def places(self) -> dict[str, nn.Module]:
        """The modules that `perturb` and `taps` can name, in the order in which they run: `down.0.block.1`,
        `down.0.attn.1`, `mid.attn_1`, `up.0.block.0`."""
        places: dict[str, nn.Module] = {}
        stages = [(f"down.{i}", stage) for i, stage in enumerate(self.down)]
        stages += [("mid", self.mid), *((f"up.{i}", stage) for i, stage in reversed(list(enumerate(self.up))))]
        for name, stage in stages:
            if isinstance(stage, Stage):
                for i, pair in enumerate(zip_longest(stage.block, stage.attn)):
                    found = zip(("block", "attn"), pair, strict=True)
                    places |= {f"{name}.{kind}.{i}": module for kind, module in found if module is not None}
            places |= {f"{name}.{child}": m for child, m in stage.named_children() if child not in ("block", "attn")}
        return places


class TimestepEmbedding(nn.Module):
    """Timesteps (b,) -> (b, temb_channels)."""

    def __init__(self, ch: int, temb_channels: int) -> None:
        super().__init__()
        self.ch = ch
        self.dense = nn.ModuleList([nn.Linear(ch, temb_channels), nn.Linear(temb_channels, temb_channels)])

    def forward(self, timesteps: Tensor) -> Tensor:
        first, second = self.dense
        embedding = ddpm_timestep_embedding(timesteps, self.ch).to(next(self.parameters()).dtype)
        temb: Tensor = second(silu(first(embedding)))
        return temb


class Stage(nn.Module):
    """The blocks of one level, each followed by attention if there is any.

    Args:
        blocks: residual blocks.
        attentions: as many, or none.
        use_checkpoint: recompute their activations in the backward pass.
    """

    def __init__(self, blocks: Sequence[nn.Module], attentions: Sequence[nn.Module], use_checkpoint: bool) -> None:
        super().__init__()
        self.use_checkpoint = use_checkpoint
        self.block = nn.ModuleList(blocks)
        self.attn = nn.ModuleList(attentions)

    def step(self, i: int, h: Tensor, temb: Tensor, requests: BlockRequests | None) -> Tensor:
        """Block number i and its attention."""
        h = kept(requests, self.block[i], checkpointed(self.use_checkpoint, self.block[i], h, temb))
        return attended(requests, self.use_checkpoint, self.attn[i], h) if len(self.attn) else h


class DownStage(Stage):
    """A level on the way down; `downsample` ends it, if given."""

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        attentions: Sequence[nn.Module],
        downsample: nn.Module | None,
        use_checkpoint: bool,
    ) -> None:
        super().__init__(blocks, attentions, use_checkpoint)
        self.downsample = downsample

    def forward(self, h: Tensor, temb: Tensor, requests: BlockRequests | None = None) -> list[Tensor]:
        """h (b, channels, h, w) -> what every part of the level gives, in order."""
        outputs = []
        for i in range(len(self.block)):
            h = self.step(i, h, temb, requests)
            outputs.append(h)
        if self.downsample is not None:
            outputs.append(kept(requests, self.downsample, self.downsample(h)))
        return outputs


class Middle(nn.Module):
    """The coarsest cells once more."""

    def __init__(self, block_1: nn.Module, attn_1: nn.Module, block_2: nn.Module, use_checkpoint: bool) -> None:
        super().__init__()
        self.use_checkpoint = use_checkpoint
        self.block_1, self.attn_1, self.block_2 = block_1, attn_1, block_2

    def forward(self, h: Tensor, temb: Tensor, requests: BlockRequests | None = None) -> Tensor:
        h = kept(requests, self.block_1, checkpointed(self.use_checkpoint, self.block_1, h, temb))
        h = attended(requests, self.use_checkpoint, self.attn_1, h)
        return kept(requests, self.block_2, checkpointed(self.use_checkpoint, self.block_2, h, temb))


class UpStage(Stage):
    """A level on the way up; `upsample` ends it, if given."""

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        attentions: Sequence[nn.Module],
        upsample: nn.Module | None,
        use_checkpoint: bool,
    ) -> None:
        super().__init__(blocks, attentions, use_checkpoint)
        self.upsample = upsample

    def forward(
        self, h: Tensor, temb: Tensor, skips: Sequence[Tensor], requests: BlockRequests | None = None
    ) -> Tensor:
        """h (b, channels, h, w) and one skip connection per block, the last one first -> (b, out, h', w')."""
        for i, skip in enumerate(reversed(skips)):
            rows, columns = skip.shape[2] - h.shape[2], skip.shape[3] - h.shape[3]
            if rows or columns:  # an odd side was rounded down
                h = pad(h, (0, columns, 0, rows), mode="replicate")
            h = self.step(i, torch.cat([h, skip], dim=1), temb, requests)
        return h if self.upsample is None else kept(requests, self.upsample, self.upsample(h))


def kept(requests: BlockRequests | None, block: nn.Module, h: Tensor) -> Tensor:
    """The output h of a block, which a call may ask for."""
    if requests is not None:
        requests.keep(block, h)
    return h


def attended(requests: BlockRequests | None, use_checkpoint: bool, attention: nn.Module, h: Tensor) -> Tensor:
    """attention(h), as the call asks for it."""
    mode = None if requests is None else requests.mode_of(attention)
    given = () if mode is None else (mode,)  # not every attention has modes
    return kept(requests, attention, checkpointed(use_checkpoint, attention, h, *given))


def ddpm_timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """Sines, then cosines, of t at geometrically spaced frequencies, the last of them 1 / 10000.

    The layout of Ho et al. 2020, arXiv:2006.11239: half = dim // 2 frequencies 10000^(-i / (half - 1)), i = 0..half-1.

    Args:
        t: (b,), any real or integer dtype.
        dim: features per number; 4 or more. An odd `dim` ends with a column of zeros.

    Returns:
        (b, dim), float32.
    """
    half = dim // 2
    log_step = math.log(10000) / (half - 1)
    phase = t.float()[:, None] * torch.exp(-log_step * torch.arange(half, dtype=torch.float32, device=t.device))
    return torch.cat([phase.sin(), phase.cos(), phase.new_zeros(len(t), dim % 2)], dim=1)
