"""The autoencoder of Stable Diffusion, SDXL, Stable Diffusion 3, FLUX.1 and their relatives."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Le
from torch import Tensor

from sgm_core.shapes import Shape
from sgm_plugins.autoencoding.decoder import Decoder
from sgm_plugins.autoencoding.encoder import Count, Encoder
from sgm_plugins.autoencoding.tiling import Tiling
from sgm_plugins.first_stages.quant_conv import QuantConvFirstStage
from sgm_plugins.networks.ddpm_blocks import AttentionType
from sgm_plugins.networks.group_norm import GROUPS
from sgm_plugins.regularizers.gaussian import GaussianRegularizer


class AutoencoderKL(QuantConvFirstStage):
    """The autoencoder of Stable Diffusion and SDXL; a latent is drawn from the Gaussian that the encoder gives.

    Rombach et al. 2022, arXiv:2112.10752. The defaults are theirs, and so are the names of the parameters. Stable
    Diffusion 3 and FLUX.1 have 16 channels, a shift and a scale, and no `quant_conv`: Esser et al. 2024,
    arXiv:2403.03206, section 5.2.1.

    Args:
        embed_dim: channels of the latents.
        z_channels: channels between encoder and decoder and the convolutions next to the latents.
        ch, ch_mult, num_res_blocks, attn_resolutions, resolution, in_channels, dropout: see `Encoder` and `Decoder`.
        resamp_with_conv, attn_type, out_ch, tanh_out, groups: see `Encoder` and `Decoder`.
        quant_conv: the two 1x1 convolutions next to the latents; without them embed_dim is z_channels.
        shift, scale: latents are (e - shift) * scale, where e is what the Gaussian gives; a number, or one for each
            channel. The `scale_factor` of a model comes after them.
        chunk: samples that go through encoder or decoder at once; None: all of them.
        tiling: parts of an image that go through at once; None: all of it.
        weights: what it starts from: a run of the `autoencoder` engine, or a `.safetensors` or `.ckpt` file of a first
            stage or of a whole model.

    Raises:
        ValueError: no level, widths that are no multiple of `groups`, attention at a size that no level has; numbers
            for another number of channels, a scale of 0; the file is not there, or has other weights.
    """

    sample: ClassVar[bool] = True

    def __init__(
        self,
        embed_dim: Count = 4,
        z_channels: Count = 4,
        ch: Count = 128,
        ch_mult: list[int | float] = [1, 2, 4, 4],  # noqa: B006 - the type that the schema shows; never changed
        num_res_blocks: Count = 2,
        attn_resolutions: list[int] = [],  # noqa: B006
        resolution: Count = 256,
        in_channels: Count = 3,
        out_ch: Count = 3,
        dropout: Annotated[float, Ge(0), Le(1)] = 0.0,
        resamp_with_conv: bool = True,
        attn_type: AttentionType = "vanilla",
        tanh_out: bool = False,
        chunk: Count | None = None,
        tiling: Tiling | None = None,
        weights: Path | None = None,
        groups: Count = GROUPS,
        quant_conv: bool = True,
        shift: float | list[float] = 0.0,
        scale: float | list[float] = 1.0,
    ) -> None:
        super().__init__(
            encoder=Encoder(
                ch=ch,
                ch_mult=ch_mult,
                num_res_blocks=num_res_blocks,
                attn_resolutions=attn_resolutions,
                resolution=resolution,
                in_channels=in_channels,
                z_channels=z_channels,
                dropout=dropout,
                resamp_with_conv=resamp_with_conv,
                attn_type=attn_type,
                groups=groups,
            ),
            decoder=Decoder(
                ch=ch,
                ch_mult=ch_mult,
                num_res_blocks=num_res_blocks,
                attn_resolutions=attn_resolutions,
                resolution=resolution,
                out_ch=out_ch,
                z_channels=z_channels,
                dropout=dropout,
                resamp_with_conv=resamp_with_conv,
                attn_type=attn_type,
                tanh_out=tanh_out,
                groups=groups,
            ),
            regularizer=GaussianRegularizer(self.sample),
            embed_dim=embed_dim,
            chunk=chunk,
            tiling=tiling,
            weights=weights,
            quant_conv=quant_conv,
        )
        for name, numbers in (("shift", shift), ("scale", scale)):
            if isinstance(numbers, list) and len(numbers) != embed_dim:
                raise ValueError(f"{name} has {len(numbers)} numbers, and latents {embed_dim} channels")
        if 0 in (scale if isinstance(scale, list) else [scale]):
            raise ValueError(f"scale is {scale}; latents would be nothing but 0")
        self.shift = shift
        self.scale = scale

    def encode_with_log(self, x: Tensor) -> tuple[Tensor, dict[str, Any]]:
        e, log = super().encode_with_log(x)
        return (e - _per_channel(self.shift, e)) * _per_channel(self.scale, e), log

    def decode(self, z: Tensor, **kwargs: Any) -> Tensor:
        return super().decode(z / _per_channel(self.scale, z) + _per_channel(self.shift, z), **kwargs)

    @staticmethod
    def shapes(image: Shape | None, *, embed_dim: int) -> Shape:
        return (embed_dim, None, None)


class AutoencoderKLMode(AutoencoderKL):
    """The autoencoder of Stable Diffusion and SDXL; a latent is the mean of the Gaussian, and so nothing is random.

    Arguments, defaults and parameters are those of `autoencoder_kl`.
    """

    sample: ClassVar[bool] = False

    shapes = staticmethod(AutoencoderKL.shapes)


def _per_channel(numbers: float | list[float], z: Tensor) -> Tensor | float:
    """What multiplies or is added to z (b, c, h, w), in its dtype."""
    return z.new_tensor(numbers)[:, None, None] if isinstance(numbers, list) else numbers
