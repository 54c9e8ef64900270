"""Parts of autoencoders: each broken promise is found."""

from __future__ import annotations

import pytest
import torch
from support.broken_components import Case, Cases
from torch import nn

from sgm_core.testing import check_component
from sgm_core.testing.stand_ins import noise

broken = Cases()
X = noise(2, 3, 8, 8, dtype=torch.float32)


class Convolution(nn.Module):
    """Half the size."""

    factor = 2
    out_channels = 4

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, self.out_channels, 2, stride=2)

    def forward(self, x):
        return self.conv(x)


@broken("encoders", r"latents for each input(?s:.*)\(2, 64\)", {"x": X})
class Flat(Convolution):
    """A vector."""

    def forward(self, x):
        return self.conv(x).flatten(1)


@broken("encoders", "gradients pass through it", {"x": X})
class Detached(Convolution):
    """Of a copy."""

    def forward(self, x):
        return self.conv(x.detach())


@broken("encoders", r"gradients reach every parameter(?s:.*)none for unused", {"x": X})
class Unused(Convolution):
    """With one that nobody calls."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(1, 1)


@broken("encoders", r"its factor(?s:.*)4 for \(8, 8\) and \(4, 4\)", {"x": X})
class WrongFactor(Convolution):
    """Says that it is smaller than it is."""

    factor = 4


class Transposed(nn.Module):
    """Twice the size."""

    factor = 2

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(4, 3, 2, stride=2)

    @property
    def last_layer(self):
        return self.conv.weight

    def forward(self, z):
        return self.conv(z)


@broken("decoders", "its last_layer, if it has one, is one of its parameters")
class Copied(Transposed):
    """A last layer that is none."""

    @property
    def last_layer(self):
        return self.conv.weight * 2


@broken("decoders", "its factor")
class WrongSize(Transposed):
    """Says four."""

    factor = 4


@broken("decoders", r"it can be used as its role says(?s:.*)positional argument")
class AsksForFrames(Transposed):
    """Asks for frames, and does not take them."""

    asks = ("frames",)


class Judge(Convolution):
    """One logit per patch."""

    out_channels = 1


@broken("discriminators", r"one number per patch(?s:.*)\(2, 4, 4, 4\)", {"x": X})
class ManyLogits(Convolution):
    """Four of them."""


@broken("discriminators", "logits are finite", {"x": X})
class Infinite(Judge):
    """A division by zero."""

    def forward(self, x):
        return self.conv(x) / 0


class Edges(nn.Module):
    """Differences of neighbours."""

    def forward(self, images):
        return [images[..., 1:] - images[..., :-1], images]


@broken("feature_networks", r"it gives a list of features")
class Bare(nn.Module):
    """One tensor."""

    def forward(self, images):
        return images


@broken("feature_networks", "do not depend on the others in the batch")
class Whitened(Edges):
    """Normalized over the batch."""

    def forward(self, images):
        return [images - images.mean(0, keepdim=True)]


@broken("feature_networks", "gradients pass through it")
class Frozen(nn.Module):
    """Without them, but with its own."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(2.0))

    def forward(self, images):
        return [self.gain * images.detach()]


@pytest.mark.parametrize("case", broken)
def test_it_is_found(case: Case):
    case.check()


@pytest.mark.parametrize(
    ("kind", "component", "inputs"),
    [
        ("encoders", Convolution, {"x": X}),
        ("decoders", Transposed, {}),
        ("discriminators", Judge, {"x": X}),
        ("feature_networks", Edges, {}),
    ],
)
def test_what_the_broken_ones_were_made_from_is_whole(kind, component, inputs):
    check_component(kind, component, inputs=inputs)
