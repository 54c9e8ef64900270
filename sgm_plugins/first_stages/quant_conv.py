"""What the first stages of latent diffusion have in common: 1x1 convolutions on the latents, which newer ones lack."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from sgm_core.roles import Regularizer
from sgm_plugins.autoencoding.decoder import Decoder
from sgm_plugins.autoencoding.encoder import Encoder
from sgm_plugins.autoencoding.tiling import Tiling
from sgm_plugins.first_stages.regularized import RegularizedFirstStage


class QuantConvFirstStage(RegularizedFirstStage):
    """Encoder, 1x1 convolution, regularizer, 1x1 convolution, decoder.

    The convolutions change the channels from those of encoder and decoder, `z_channels`, to those of the latents,
    `embed_dim`; both times two where the encoder gives mean and log variance.

    Args:
        quant_conv: whether there are these two convolutions.

    Raises:
        ValueError: none, and another number of channels.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        regularizer: Regularizer,
        embed_dim: int,
        chunk: int | None,
        tiling: Tiling | None,
        weights: Path | None,
        quant_conv: bool = True,
    ) -> None:
        super().__init__(encoder, decoder, regularizer, chunk, tiling)
        moments, z_channels = encoder.conv_out.out_channels, decoder.conv_in.in_channels
        if not quant_conv and embed_dim != z_channels:
            raise ValueError(
                f"embed_dim is {embed_dim} and z_channels {z_channels}; without quant_conv they are the same number"
            )
        wide = moments // z_channels * embed_dim
        self.quant_conv = nn.Conv2d(moments, wide, 1) if quant_conv else nn.Identity()
        self.post_quant_conv = nn.Conv2d(embed_dim, z_channels, 1) if quant_conv else nn.Identity()
        self.start_from(weights)

    def _encode(self, x: Tensor) -> Tensor:
        assert self.encoder is not None
        moments: Tensor = self.quant_conv(self.encoder(x))
        return moments

    def _decode(self, z: Tensor) -> Tensor:
        image: Tensor = self.decoder(self.post_quant_conv(z))
        return image
