"""Images as tokens from a variational encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

from sgm_core.roles import Encoder
from sgm_core.shapes import Shape
from sgm_core.slots import describe
from sgm_plugins.regularizers.gaussian import GaussianRegularizer


class GaussianEncoderEmbedder(nn.Module):
    """An encoder with a Gaussian posterior, trained along with the network: Kingma and Welling 2014, arXiv:1312.6114.

    The latents are drawn, for each sample by itself in training. Flat they are tokens, one for each place, rank 3, for
    `crossattn`; as a map (b, c, h, w), rank 4, for `concat`. No loss keeps them near the standard normal distribution:
    an embedder has no say in the loss.

    Args:
        encoder: images (b, c, h, w) to means and log variances (b, 2 * z, h', w').
        sample: draw the latents; otherwise they are the means.
        flatten: tokens, not a map.
    """

    def __init__(self, encoder: Encoder, sample: bool = True, flatten: bool = True) -> None:
        super().__init__()
        self.encoder = cast(nn.Module, encoder)
        self.posterior = GaussianRegularizer(sample)
        self.flatten = flatten

    @staticmethod
    def shapes(image: Shape | None, *, encoder: Callable[..., Shape | None], flatten: bool) -> Shape:
        moments = encoder(image)
        z = None if moments is None or moments[0] is None else moments[0] // 2
        return (None, z) if flatten else (z, None, None)

    def forward(self, image: Tensor) -> Tensor:
        """Images (b, c, h, w) in [-1, 1] -> tokens (b, h' * w', z), rows first, or a map (b, z, h', w')."""
        z: Tensor = self.posterior(self.encoder(image))[0]
        return z.flatten(2).transpose(1, 2) if self.flatten else z

    def check(self, image: Tensor) -> None:
        """Raise ValueError for what is no batch of images."""
        if not isinstance(image, Tensor) or not image.is_floating_point() or image.ndim != 4:
            raise ValueError(f"the image is {describe(image)}; a floating-point tensor (b, c, h, w) can be encoded")
