"""Latents of video frames -> frames, mixing the frames of a clip."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, ClassVar, Literal, cast

from annotated_types import Ge, Le
from torch import Tensor, nn

from sgm_plugins.autoencoding.decoder import DecoderLayers
from sgm_plugins.autoencoding.encoder import Count
from sgm_plugins.autoencoding.layout import Layout
from sgm_plugins.autoencoding.temporal_blocks import MergeStrategy, TemporalAttnBlock, TemporalConv, TemporalResnetBlock
from sgm_plugins.networks.ddpm_blocks import AttentionType, ResnetBlock, attention_block
from sgm_plugins.networks.video_resblock import video_kernel

TimeMode = Literal["all", "conv-only", "attn-only"]


class TemporalDecoder(DecoderLayers):
    """The decoder of Stable Video Diffusion: an image decoder whose layers also see the other frames of the clip.

    Blattmann et al. 2023, arXiv:2311.15127. The defaults are those of its public checkpoints, and so are the names of
    the parameters. Never mixes two clips.

    Args:
        ch, ch_mult, num_res_blocks, attn_resolutions, resolution, out_ch, z_channels, dropout: see `Decoder`.
        resamp_with_conv, attn_type, tanh_out: see `Decoder`.
        time_mode: which layers mix frames: residual blocks and the last convolution ("conv-only"), attention
            ("attn-only"), or both ("all").
        video_kernel_size: of the convolutions over (frames, h, w), odd; one number for all three.
        alpha: where the mixtures of image and video layers start; a logit if they are learned.
        merge_strategy: whether the mixtures are learned.

    Raises:
        ValueError: as `Decoder`; an even kernel; attention over time without attention over space.
    """

    asks: ClassVar[tuple[str, ...]] = ("frames",)

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
        time_mode: TimeMode = "conv-only",
        video_kernel_size: int | list[int] = [3, 1, 1],  # noqa: B006
        alpha: float = 0.0,
        merge_strategy: MergeStrategy = "learned",
    ) -> None:
        if time_mode != "conv-only" and attn_type != "vanilla":
            raise ValueError(f"time_mode {time_mode!r} extends attn_type 'vanilla', and attn_type is {attn_type!r}")
        kernel = video_kernel(video_kernel_size)
        resnet: Callable[[int, int], nn.Module] = partial(ResnetBlock, dropout=dropout)
        attention: Callable[[int], nn.Module] = partial(attention_block, attn_type)
        output: Callable[[int], nn.Conv2d] = partial(nn.Conv2d, out_channels=out_ch, kernel_size=3, padding=1)
        if time_mode != "attn-only":
            resnet = partial(
                TemporalResnetBlock, dropout=dropout, kernel=kernel, alpha=alpha, merge_strategy=merge_strategy
            )
            output = partial(TemporalConv, out_channels=out_ch, kernel=kernel)
        if time_mode != "conv-only":
            attention = partial(TemporalAttnBlock, alpha=alpha, merge_strategy=merge_strategy)
        layout = Layout(ch, ch_mult, num_res_blocks, attn_resolutions, resolution)
        super().__init__(layout, z_channels, resnet, attention, output, resamp_with_conv, tanh_out)

    @property
    def last_layer(self) -> Tensor:
        """The last weight before the image, by whose gradients a discriminator's loss is balanced."""
        last = self.conv_out.time_mix_conv if isinstance(self.conv_out, TemporalConv) else self.conv_out
        return cast(Tensor, last.weight)

    def forward(self, z: Tensor, frames: int) -> Tensor:
        """z (clips * frames, z_channels, h, w), frames fastest -> images (clips * frames, out_ch, h', w')."""
        return self._decode(z, frames)
