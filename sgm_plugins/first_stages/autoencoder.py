"""An autoencoder from its parts."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from sgm_core.roles import Regularizer
from sgm_core.shapes import Shape
from sgm_plugins.autoencoding.decoder import Decoder
from sgm_plugins.autoencoding.encoder import Count, Encoder
from sgm_plugins.autoencoding.tiling import Tiling
from sgm_plugins.first_stages.regularized import RegularizedFirstStage


class Autoencoder(RegularizedFirstStage):
    """Any encoder, regularizer and decoder in a row.

    Args:
        decoder: from a config, the arguments of `Decoder`; from Python, any module from latents to images.
        regularizer: what turns the encoder's result into latents.
        encoder: from a config, the arguments of `Encoder`; from Python, any module from images to what the
            regularizer takes. None: it decodes only, as the public SV3D checkpoints.
        chunk: samples that go through encoder or decoder at once; None: all of them.
        tiling: parts of an image that go through at once; None: all of it. Other modules than ours then need an
            attribute `factor`, the pixels per side of a latent's cell.
    """

    def __init__(
        self,
        decoder: Decoder | nn.Module,
        regularizer: Regularizer,
        encoder: Encoder | nn.Module | None = None,
        chunk: Count | None = None,
        tiling: Tiling | None = None,
    ) -> None:
        super().__init__(encoder, decoder, regularizer, chunk, tiling)

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
