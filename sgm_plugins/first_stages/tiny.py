"""A tiny autoencoder, for previews of what a model draws and for fast experiments."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from sgm_core.shapes import Shape
from sgm_plugins.autoencoding.encoder import Count
from sgm_plugins.autoencoding.tiling import Tiling
from sgm_plugins.first_stages.regularized import RegularizedFirstStage
from sgm_plugins.regularizers.identity import IdentityRegularizer


class TinyBlock(nn.Module):
    """Three convolutions around a skip connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(b, channels, h, w) -> the same shape."""
        y: Tensor = (self.conv(x) + x).relu()
        return y


class TinyEncoder(nn.Module):
    """Images -> latents. Between levels the size is halved.

    Args:
        in_channels: of the images.
        embed_dim: of the latents.
        width: channels of every level.
        blocks: how many each level has.
    """

    def __init__(self, in_channels: int, embed_dim: int, width: int, blocks: list[int]) -> None:
        super().__init__()
        self.factor = 2 ** (len(blocks) - 1)
        layers: list[nn.Module] = [nn.Conv2d(in_channels, width, 3, padding=1)]
        for i, count in enumerate(blocks):
            layers += [nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False)] if i else []
            layers += [TinyBlock(width) for _ in range(count)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, embed_dim, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Images (b, in_channels, h, w) in [-1, 1] -> (b, embed_dim, h / factor, w / factor)."""
        z: Tensor = self.layers((x + 1) / 2)  # it was trained on [0, 1]
        return z


class TinyDecoder(nn.Module):
    """Latents -> images. Between levels the size is doubled. Arguments as `TinyEncoder`, the coarsest level first."""

    def __init__(self, embed_dim: int, out_ch: int, width: int, blocks: list[int]) -> None:
        super().__init__()
        self.factor = 2 ** (len(blocks) - 1)
        layers: list[nn.Module] = [nn.Conv2d(embed_dim, width, 3, padding=1), nn.ReLU()]
        for i, count in enumerate(blocks):
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1, bias=False)] if i else []
            layers += [TinyBlock(width) for _ in range(count)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, out_ch, 3, padding=1))

    @property
    def last_layer(self) -> Tensor:
        """The last weight before the image."""
        last = self.layers[-1].weight
        assert isinstance(last, Tensor)
        return last

    def forward(self, z: Tensor) -> Tensor:
        """z (b, embed_dim, h, w) -> images (b, out_ch, h * factor, w * factor), about in [-1, 1]."""
        image: Tensor = self.layers((z / 3).tanh() * 3)  # no latent beyond 3 deviations
        return image * 2 - 1


class TinyAutoencoder(RegularizedFirstStage):
    """An autoencoder of 2 million weights with the latents of a large one, distilled from it.

    TAESD, https://github.com/madebyollin/taesd; the defaults are its own for Stable Diffusion and SDXL, FLUX.1 and
    Stable Diffusion 3 have 16 channels. Its latents are those that a model draws, scaled and shifted: the
    `scale_factor` of a model with it is 1. Parameters are named as in the files for diffusers.

    Args:
        embed_dim: channels of the latents.
        width: channels of all layers.
        encoder_blocks: blocks of each level, finest first; between levels the size is halved.
        decoder_blocks: blocks of each level, coarsest first; between levels the size is doubled.
        in_channels, out_ch: of the images.
        chunk: samples that go through encoder or decoder at once; None: all of them.
        tiling: parts of an image that go through at once; None: all of it.
        weights: what it starts from: a run, or a `.safetensors` or `.ckpt` file of a first stage or of a whole model.

    Raises:
        ValueError: no level; the file is not there, or has other weights.
    """

    def __init__(
        self,
        embed_dim: Count = 4,
        width: Count = 64,
        encoder_blocks: list[int] = [1, 3, 3, 3],  # noqa: B006 - the type that the schema shows; never changed
        decoder_blocks: list[int] = [3, 3, 3, 1],  # noqa: B006
        in_channels: Count = 3,
        out_ch: Count = 3,
        chunk: Count | None = None,
        tiling: Tiling | None = None,
        weights: Path | None = None,
    ) -> None:
        if not encoder_blocks or not decoder_blocks:
            raise ValueError(f"encoder_blocks {encoder_blocks}, decoder_blocks {decoder_blocks}: there must be a level")
        super().__init__(
            encoder=TinyEncoder(in_channels, embed_dim, width, encoder_blocks),
            decoder=TinyDecoder(embed_dim, out_ch, width, decoder_blocks),
            regularizer=IdentityRegularizer(),
            chunk=chunk,
            tiling=tiling,
        )
        self.start_from(weights)

    @staticmethod
    def shapes(image: Shape | None, *, embed_dim: int) -> Shape:
        return (embed_dim, None, None)

    def _encode(self, x: Tensor) -> Tensor:
        assert self.encoder is not None
        z: Tensor = self.encoder(x)
        return z

    def _decode(self, z: Tensor) -> Tensor:
        image: Tensor = self.decoder(z)
        return image
