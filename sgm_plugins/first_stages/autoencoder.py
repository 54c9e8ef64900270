"""An autoencoder from its parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from sgm_core.roles import Decoder, Encoder, Regularizer
from sgm_core.shapes import Shape
from sgm_plugins.autoencoding.encoder import Count
from sgm_plugins.autoencoding.tiling import Tiling
from sgm_plugins.first_stages.regularized import RegularizedFirstStage


class Autoencoder(RegularizedFirstStage):
    """Any encoder, regularizer and decoder in a row.

    Args:
        decoder: latents to images.
        regularizer: what turns the encoder's result into latents.
        encoder: images to what the regularizer takes. None: it decodes only, as the public SV3D checkpoints.
        chunk: samples that go through encoder or decoder at once; None: all of them.
        tiling: parts of an image that go through at once; None: all of it. Other modules than ours then need an
            attribute `factor`, the pixels per side of a latent's cell.
        weights: what it starts from: a run of the `autoencoder` engine, or a `.safetensors` or `.ckpt` file of a first
            stage or of a whole model.

    Raises:
        ValueError: the decoder mixes frames, which `temporal_autoencoder` tells it; tiling without a factor; the file
            is not there, or has other weights.
    """

    def __init__(
        self,
        decoder: Decoder,
        regularizer: Regularizer,
        encoder: Encoder | None = None,
        chunk: Count | None = None,
        tiling: Tiling | None = None,
        weights: Path | None = None,
    ) -> None:
        if "frames" in getattr(decoder, "asks", ()):
            name = type(decoder).__name__
            raise ValueError(f"{name} mixes the frames of clips: the first stage 'temporal_autoencoder' says which")
        super().__init__(encoder, decoder, regularizer, chunk, tiling)
        self.start_from(weights)

    @staticmethod
    def shapes(
        image: Shape | None,
        *,
        encoder: Callable[..., Shape | None] | None,
        regularizer: Callable[..., Shape | None],
    ) -> Shape | None:
        return None if encoder is None else regularizer(encoder(image))

    def _encode(self, x: Tensor) -> Tensor:
        assert self.encoder is not None
        moments: Tensor = self.encoder(x)
        return moments

    def _decode(self, z: Tensor) -> Tensor:
        image: Tensor = self.decoder(z)
        return image
