"""How different two images look."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor, nn

from sgm_core.roles import FeatureNetwork
from sgm_core.slots import describe
from sgm_plugins.perceptual.vgg16 import CHANNELS
from sgm_plugins.perceptual.weights import read_weights

if TYPE_CHECKING:
    from typing import Self

EPS = 1e-10
"""Added to the length of a feature vector, as in the distance that the published heads belong to."""


@dataclass(init=False, eq=False, repr=False)  # for the config alone: a mapping of the arguments stands for one
class LPIPS(nn.Module):
    """Learned perceptual image patch similarity: Zhang et al. 2018, arXiv:1801.03924, eq. 1.

    d(x, y) = sum_k mean_hw sum_c w_kc (f_kc(x) - f_kc(y))^2, of features f_k of unit length at each place. It is
    differentiable in both images. The features are frozen and in eval mode, whoever calls `train()`.

    Args:
        features: what is compared, images -> features (b, c_k, h_k, w_k).
        heads: a file of the weights w in the layout of the published ones, such as vgg.pth of version 0.1 (`.pth` or
            `.safetensors`); they belong to VGG16. "uniform" is 1 for every channel.

    Raises:
        ValueError: no such file, or one of something else.
    """

    def __init__(self, features: FeatureNetwork, heads: Path | Literal["uniform"]) -> None:
        super().__init__()
        if heads is None:
            raise ValueError("heads is null; give the file of LPIPS's heads, or ask for 'uniform' ones")
        self.features = cast(nn.Module, features).requires_grad_(False)
        weights = [] if heads == "uniform" else _read(Path(heads))
        self.n_heads = len(weights)
        for k, weight in enumerate(weights):
            self.register_buffer(f"head_{k}", weight, persistent=False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Eval mode, whatever is asked for."""
        return super().train(False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Images (b, c, h, w) in [-1, 1] and as many others -> their distances (b,), at least float32.

        Raises:
            ValueError: they differ in shape; the features do not fit the heads, or cannot be had of such images.
        """
        if x.shape != y.shape:
            raise ValueError(f"{describe(x)} cannot be compared with {describe(y)}; give images of one shape")
        heads = [self.get_buffer(f"head_{k}") for k in range(self.n_heads)]
        pairs = list(zip(self.features(x), self.features(y), strict=True))
        if heads and [f.shape[1] for f, _ in pairs] != [len(head) for head in heads]:
            raise ValueError(
                f"the features have {[f.shape[1] for f, _ in pairs]} channels, the heads {[len(w) for w in heads]}; "
                "other features than VGG16's need heads 'uniform'"
            )
        distance = x.new_zeros(len(x), dtype=torch.promote_types(x.dtype, torch.float32))
        for k, (f, g) in enumerate(pairs):
            difference = (_unit(f) - _unit(g)).square()  # (b, c, h, w)
            if heads:
                difference = difference * heads[k][:, None, None]
            distance = distance + difference.sum(1).mean((1, 2))
        return distance


def _unit(features: Tensor) -> Tensor:
    """At each place of length 1, in float32 at least; a place without features stays zero."""
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    length: Tensor = torch.linalg.vector_norm(features, dim=1, keepdim=True)  # its gradient at zero is zero, not NaN
    return features / (length + EPS)


def _read(path: Path) -> list[Tensor]:
    names = {f"lin{k}.model.1.weight": (1, channels, 1, 1) for k, channels in enumerate(CHANNELS)}
    what = "the heads of LPIPS 0.1 for VGG16, https://github.com/richzhang/PerceptualSimilarity"
    return [weight.flatten() for weight in read_weights(path, names, what).values()]
