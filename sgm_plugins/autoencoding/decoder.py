"""Latents -> images, the convolutional half of latent diffusion's autoencoders."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated

from annotated_types import Ge, Le
from torch import Tensor, nn
from torch.nn.functional import silu

from sgm_plugins.autoencoding.encoder import Count
from sgm_plugins.autoencoding.layout import Layout, Level, Middle, apply
from sgm_plugins.networks.ddpm_blocks import EPS, AttentionType, ResnetBlock, Upsample, attention_block
from sgm_plugins.networks.group_norm import GROUPS, GroupNorm


class DecoderLayers(nn.Module):
    """The layers that image and video decoders have in common; what makes their blocks is given.

    Args:
        layout: the levels, those of the encoder.
        z_channels: of the latents.
        resnet: makes a residual block of (channels in, channels out).
        attention: makes the attention of a number of channels, for the levels that attend and for the middle.
        output: makes the last convolution, of a number of channels.
        resamp_with_conv: a convolution after each doubling.
        tanh_out: images pass through tanh.
        groups: of channels that are normalized together, before the output.
    """

    def __init__(
        self,
        layout: Layout,
        z_channels: int,
        resnet: Callable[[int, int], nn.Module],
        attention: Callable[[int], nn.Module],
        output: Callable[[int], nn.Conv2d],
        resamp_with_conv: bool,
        tanh_out: bool,
        groups: int = GROUPS,
    ) -> None:
        super().__init__()
        self.factor = layout.factor
        self.tanh_out = tanh_out
        width = layout.widths[-1]
        self.conv_in = nn.Conv2d(z_channels, width, 3, padding=1)
        self.mid = Middle(resnet(width, width), attention(width), resnet(width, width))
        levels: list[Level] = []
        for i, (out, attends) in reversed([*enumerate(zip(layout.widths, layout.attends, strict=True))]):
            block: list[nn.Module] = []
            attn: list[nn.Module] = []
            for _ in range(layout.num_res_blocks + 1):
                block.append(resnet(width, out))
                attn.append(attention(out) if attends else nn.Identity())
                width = out
            levels.insert(0, Level(block, attn, upsample=Upsample(width, use_conv=resamp_with_conv) if i else None))
        self.up = nn.ModuleList(levels)  # as checkpoints number them: 0 is the last, at full size
        self.norm_out = GroupNorm(width, EPS, groups)
        self.conv_out = output(width)

    @property
    def last_layer(self) -> Tensor:
        """The last weight before the image, by whose gradients a discriminator's loss is balanced."""
        return self.conv_out.weight

    def _decode(self, z: Tensor, frames: int | None = None) -> Tensor:
        """z (b, z_channels, h, w) -> images (b, out_ch, h * factor, w * factor)."""
        h = self.mid(self.conv_in(z), frames)
        for level in reversed(self.up):
            h = level(h, frames)
        x = apply(self.conv_out, silu(self.norm_out(h)), frames)
        return x.tanh() if self.tanh_out else x


class Decoder(DecoderLayers):
    """Residual blocks over doubling resolutions. Rombach et al. 2022, arXiv:2112.10752, appendix G.

    The defaults are those of Stable Diffusion and SDXL. Parameters are named as in their checkpoints.

    Args:
        ch: width of the last level before `ch_mult`; a multiple of `groups`.
        ch_mult: the width of each level in `ch`, as in the encoder: the last one comes first.
        num_res_blocks: residual blocks per level, less one.
        attn_resolutions: sizes of the levels with attention, for images of size `resolution`.
        resolution: the size that `attn_resolutions` is about; images of any size can be decoded.
        out_ch: channels of the images.
        z_channels: of the latents.
        dropout: in the residual blocks.
        resamp_with_conv: a convolution after each doubling.
        attn_type: of the levels with attention and of the middle; "none" takes it out of both.
        tanh_out: images pass through tanh.
        groups: of channels that are normalized together.

    Raises:
        ValueError: no level, widths that are no multiple of `groups`, attention at a size that no level has.
    """

    def __init__(
        self,
        ch: Count = 128,
        ch_mult: list[int | float] = [1, 2, 4, 4],  # noqa: B006 - the type that the schema shows; never changed
        num_res_blocks: Count = 2,
        attn_resolutions: list[int] = [],  # noqa: B006
        resolution: Count = 256,
        out_ch: Count = 3,
        z_channels: Count = 4,
        dropout: Annotated[float, Ge(0), Le(1)] = 0.0,
        resamp_with_conv: bool = True,
        attn_type: AttentionType = "vanilla",
        tanh_out: bool = False,
        groups: Count = GROUPS,
    ) -> None:
        super().__init__(
            layout=Layout(ch, ch_mult, num_res_blocks, attn_resolutions, resolution),
            z_channels=z_channels,
            resnet=partial(ResnetBlock, dropout=dropout, groups=groups),
            attention=partial(attention_block, attn_type, groups=groups),
            output=partial(nn.Conv2d, out_channels=out_ch, kernel_size=3, padding=1),
            resamp_with_conv=resamp_with_conv,
            tanh_out=tanh_out,
            groups=groups,
        )

    def forward(self, z: Tensor) -> Tensor:
        """z (b, z_channels, h, w) -> images (b, out_ch, h * factor, w * factor)."""
        return self._decode(z)
