"""The autoencoder with a codebook: VQ-VAE and VQGAN in the form of latent diffusion."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Le

from sgm_core.shapes import Shape
from sgm_plugins.autoencoding.decoder import Decoder
from sgm_plugins.autoencoding.encoder import Count, Encoder
from sgm_plugins.autoencoding.tiling import Tiling
from sgm_plugins.first_stages.quant_conv import QuantConvFirstStage
from sgm_plugins.networks.ddpm_blocks import AttentionType
from sgm_plugins.regularizers.vq import VectorQuantizer


class VQFirstStage(QuantConvFirstStage):
    """Each cell of the latent grid is the nearest of `n_embed` learned vectors.

    Van den Oord et al. 2017, arXiv:1711.00937; Esser et al. 2021, arXiv:2012.09841. Parameters are named as in the
    checkpoints of latent diffusion. For other quantizers see `autoencoder`.

    Args:
        n_embed: size of the codebook.
        embed_dim: channels of the latents.
        z_channels: channels between encoder and decoder and the convolutions next to the latents.
        beta: weight of the loss that keeps the encoder near the codebook.
        ch, ch_mult, num_res_blocks, attn_resolutions, resolution, in_channels, dropout: see `Encoder` and `Decoder`.
        resamp_with_conv, attn_type, out_ch, tanh_out: see `Encoder` and `Decoder`.
        chunk: samples that go through encoder or decoder at once; None: all of them.
        tiling: parts of an image that go through at once; None: all of it.
        weights: what it starts from: a run of the `autoencoder` engine, or a `.safetensors` or `.ckpt` file of a first
            stage or of a whole model.

    Raises:
        ValueError: no level, widths that are no multiple of 32, attention at a size that no level has; the file is not
            there, or has other weights.
    """

    def __init__(
        self,
        n_embed: Count,
        embed_dim: Count = 3,
        z_channels: Count = 3,
        beta: Annotated[float, Ge(0)] = 0.25,
        ch: Count = 128,
        ch_mult: list[int | float] = [1, 2, 4],  # noqa: B006 - the type that the schema shows; never changed
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
                double_z=False,
                dropout=dropout,
                resamp_with_conv=resamp_with_conv,
                attn_type=attn_type,
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
            ),
            regularizer=VectorQuantizer(n_embed, embed_dim, beta),
            embed_dim=embed_dim,
            chunk=chunk,
            tiling=tiling,
            weights=weights,
        )

    @staticmethod
    def shapes(image: Shape | None, *, embed_dim: int) -> Shape:
        return (embed_dim, None, None)
