"""PatchGAN: is each patch of an image real?"""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge
from torch import Tensor, nn

from sgm_core.slots import describe

Count = Annotated[int, Ge(1)]

WIDEST = 8
"""Times `ndf`, whatever the number of layers."""


class PatchDiscriminator(nn.Module):
    """Strided convolutions, so that each logit sees a patch. Isola et al. 2017, arXiv:1611.07004, appendix 6.1.2.

    With three layers a patch has 70 pixels a side, with one 16. In clips the convolutions also see the neighbouring
    frames, and the number of frames stays. Weights start from N(0, 0.02). Parameters are named as in the published
    checkpoints of VQGAN.

    Args:
        in_channels: of the images.
        ndf: width of the first layer; each of the next ones doubles it, up to 8 times.
        num_layers: convolutions that halve the size; two more do not.
        norm: what follows the convolutions in between: "batch", statistics of the batch; "instance", of each image;
            "none", nothing.
        dims: 2 for images (b, c, h, w), 3 for clips (b, c, t, h, w).
    """

    def __init__(
        self,
        in_channels: Count = 3,
        ndf: Count = 64,
        num_layers: Count = 3,
        norm: Literal["batch", "instance", "none"] = "batch",
        dims: Literal[2, 3] = 2,
    ) -> None:
        super().__init__()
        self.dims = dims
        self.smallest = 3 * 2**num_layers
        layers = [self._conv(in_channels, ndf, stride=2), nn.LeakyReLU(0.2)]
        width = ndf
        for n in range(1, num_layers + 1):
            out = ndf * min(2**n, WIDEST)
            # the mean that a bias adds is what the statistics take away
            layers.append(self._conv(width, out, stride=2 if n < num_layers else 1, bias=norm == "none"))
            layers += [*self._norm(norm, out), nn.LeakyReLU(0.2)]
            width = out
        self.main = nn.Sequential(*layers, self._conv(width, 1, stride=1))
        self.main.apply(_initialize)

    def _conv(self, width: int, out: int, *, stride: int, bias: bool = True) -> nn.Module:
        if self.dims == 2:
            return nn.Conv2d(width, out, 4, stride, padding=1, bias=bias)
        return nn.Conv3d(width, out, (3, 4, 4), (1, stride, stride), padding=1, bias=bias)

    def _norm(self, norm: str, channels: int) -> list[nn.Module]:
        if norm == "batch":
            return [nn.BatchNorm2d(channels) if self.dims == 2 else nn.BatchNorm3d(channels)]
        if norm == "instance":
            make = nn.InstanceNorm2d if self.dims == 2 else nn.InstanceNorm3d
            return [make(channels, affine=True)]
        return []

    def forward(self, x: Tensor) -> Tensor:
        """Images or clips in [-1, 1] -> logits (b, 1, h', w') or (b, 1, t, h', w'), high for real patches.

        Raises:
            ValueError: of another rank, or smaller than a logit needs.
        """
        if x.ndim != self.dims + 2 or min(x.shape[-2:]) < self.smallest:
            form = "images (b, c, h, w)" if self.dims == 2 else "clips (b, c, t, h, w)"
            raise ValueError(
                f"the discriminator was given {describe(x)}; it judges {form} of {self.smallest} pixels a side or "
                "more. Fewer num_layers need fewer"
            )
        logits: Tensor = self.main(x)
        return logits


def _initialize(layer: nn.Module) -> None:
    if isinstance(layer, (nn.Conv2d, nn.Conv3d)):
        nn.init.normal_(layer.weight, 0.0, 0.02)
    elif getattr(layer, "affine", False):  # a normalization
        nn.init.normal_(layer.weight, 1.0, 0.02)  # type: ignore[arg-type]
