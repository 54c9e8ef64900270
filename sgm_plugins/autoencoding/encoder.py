"""Images -> latents, the convolutional half of latent diffusion's autoencoders."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Le
from torch import Tensor, nn
from torch.nn.functional import silu

from sgm_core.shapes import Shape
from sgm_plugins.autoencoding.layout import Layout, Level, Middle
from sgm_plugins.networks.ddpm_blocks import EPS, AttentionType, Downsample, ResnetBlock, attention_block
from sgm_plugins.networks.group_norm import GROUPS, GroupNorm

Count = Annotated[int, Ge(1)]


class Encoder(nn.Module):
    """Residual blocks over halving resolutions. Rombach et al. 2022, arXiv:2112.10752, appendix G.

    The defaults are those of Stable Diffusion, SDXL and SVD. Parameters are named as in their checkpoints.

    Args:
        ch: width of the first level before `ch_mult`; a multiple of `groups`.
        ch_mult: the width of each level in `ch`; between levels the size is halved, rounding down.
        num_res_blocks: residual blocks per level.
        attn_resolutions: sizes of the levels with attention, for images of size `resolution`.
        resolution: the size that `attn_resolutions` is about; images of any size can be encoded.
        in_channels: of the images.
        z_channels: of the latents.
        double_z: give twice as many channels, mean and log variance.
        dropout: in the residual blocks.
        resamp_with_conv: halve by learned convolutions, rather than means.
        attn_type: of the levels with attention and of the middle; "none" takes it out of both.
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
        in_channels: Count = 3,
        z_channels: Count = 4,
        double_z: bool = True,
        dropout: Annotated[float, Ge(0), Le(1)] = 0.0,
        resamp_with_conv: bool = True,
        attn_type: AttentionType = "vanilla",
        groups: Count = GROUPS,
    ) -> None:
        super().__init__()
        layout = Layout(ch, ch_mult, num_res_blocks, attn_resolutions, resolution)
        self.factor = layout.factor
        self.conv_in = nn.Conv2d(in_channels, ch, 3, padding=1)
        self.down = nn.ModuleList()
        width = ch
        for i, (out, attends) in enumerate(zip(layout.widths, layout.attends, strict=True)):
            block: list[nn.Module] = []
            attn: list[nn.Module] = []
            for _ in range(num_res_blocks):
                block.append(ResnetBlock(width, out, dropout=dropout, groups=groups))
                attn.append(attention_block(attn_type if attends else "none", out, groups))
                width = out
            last = i == len(layout.widths) - 1
            self.down.append(Level(block, attn, downsample=None if last else Downsample(width, resamp_with_conv)))
        self.mid = Middle(
            ResnetBlock(width, dropout=dropout, groups=groups),
            attention_block(attn_type, width, groups),
            ResnetBlock(width, dropout=dropout, groups=groups),
        )
        self.norm_out = GroupNorm(width, EPS, groups)
        self.conv_out = nn.Conv2d(width, 2 * z_channels if double_z else z_channels, 3, padding=1)

    @staticmethod
    def shapes(x: Shape | None, *, z_channels: int, double_z: bool) -> Shape:
        return (2 * z_channels if double_z else z_channels, None, None)

    def forward(self, x: Tensor) -> Tensor:
        """Images (b, in_channels, h, w) -> (b, z_channels or twice that, h / factor, w / factor)."""
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        y: Tensor = self.conv_out(silu(self.norm_out(self.mid(h))))
        return y
