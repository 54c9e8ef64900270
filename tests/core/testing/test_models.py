"""Networks, embedders and conditioners: each broken promise is found."""

from __future__ import annotations

import pytest
import torch
from support.broken_components import CLASSES, FEATURES, Case, Cases, T, X
from torch import Tensor, nn

from sgm_core.conditioning import Conditioning
from sgm_core.roles import Conditioner
from sgm_core.testing import check_component
from sgm_plugins.embedders.classes import ClassEmbedder

broken = Cases()


@broken("networks", r"gradients reach every parameter(?s:.*)none for unused\.weight", {"x": X, "timesteps": T})
class UnusedLayer(nn.Module):
    """A convolution, and another one that nobody calls."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)

    def forward(self, x, timesteps, context=None, y=None):
        return self.used(x)


@broken("networks", "samples and the grid of x", {"x": X, "timesteps": T})
class Shrinks(nn.Module):
    """A convolution without padding."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3)

    def forward(self, x, timesteps, context=None, y=None):
        return self.conv(x)


@broken("embedders", r"outputs have rank 2(?s:.*)tensor \(3,\)", FEATURES)
class WrongRank(nn.Module):
    """One number per sample."""

    def forward(self, features):
        return features.mean(dim=1)


@broken("embedders", "one row, or the same number of rows, per sample", FEATURES)
class TransposesSamples(nn.Module):
    """The samples on the last axis."""

    def forward(self, features):
        return features.T


@broken("embedders", "finite floating-point numbers(?s:.*)NaN", FEATURES)
class NotANumber(nn.Module):
    """0 / 0."""

    def forward(self, features):
        return (features - features) / (features - features).clamp(max=0)


@broken("embedders", "finite floating-point numbers(?s:.*)int64", CLASSES)
class StaysAnInteger(nn.Module):
    """The label itself."""

    def forward(self, cls):
        return cls[:, None]


@broken("embedders", "one tensor or a list of tensors(?s:.*)a dict", FEATURES)
class GivesADict(nn.Module):
    """By name."""

    def forward(self, features):
        return {"vector": features}


@broken("embedders", "it trains", FEATURES)
class FrozenByItself(nn.Module):
    """A linear layer under no_grad."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    @torch.no_grad()
    def forward(self, features):
        return self.linear(features)


@broken("embedders", "its check raises ValueError(?s:.*)AttributeError", FEATURES)
class CheckStumbles(nn.Module):
    """A check that takes tensors for granted."""

    def forward(self, features):
        return features

    def check(self, features):
        if features.ndim != 2:
            raise ValueError("two axes")


@broken("embedders", "it lets object", FEATURES)
class CheckSleeps(nn.Module):
    """A check that passes anything."""

    def forward(self, features):
        return features

    def check(self, features):
        pass


class OneClass(Conditioner):
    """A vector per class, right."""

    def __init__(self) -> None:
        super().__init__()
        self.embedders = nn.ModuleList([ClassEmbedder(4, 10)])

    @property
    def input_keys(self):
        return ("cls",)

    def forward(self, batch, *, force_zero=(), drop=True, generator=None):
        vector = self.embedders[0](batch["cls"])
        return Conditioning(vector=vector * 0 if "cls" in force_zero else vector)

    def unconditional(self, batch):
        return self(batch, force_zero=["cls"])

    def check(self, batch):
        if "cls" not in batch:
            raise ValueError("the batch has no 'cls'")


@broken("conditioners", "left as it was(?s:.*)'cls' is there only before", CLASSES)
class EatsTheBatch(OneClass):
    """Takes its entries out."""

    def forward(self, batch, *, force_zero=(), drop=True, generator=None):
        return super().forward({"cls": batch.pop("cls")}, force_zero=force_zero)


@broken("conditioners", "the form of the conditioning", CLASSES)
class LeavesOut(OneClass):
    """Nothing at all for the unconditional half."""

    def unconditional(self, batch):
        return Conditioning()


@broken("conditioners", "force_zero replaces", CLASSES)
class NeverZero(OneClass):
    """Ignores force_zero."""

    def forward(self, batch, *, force_zero=(), drop=True, generator=None):
        return super().forward(batch)


@broken("conditioners", "names an entry that is missing", CLASSES)
class NoNames(OneClass):
    """Does not say which."""

    def check(self, batch):
        if "cls" not in batch:
            raise ValueError("an entry is missing")


@broken("networks", "its output is finite", {"x": X, "timesteps": T})
class DividesByZeroTime(nn.Module):
    """x / 0."""

    def forward(self, x, timesteps, context=None, y=None):
        return x / (timesteps - timesteps)[:, None, None, None]


@broken("embedders", "a conditioner can embed and drop", FEATURES)
class TokensThatDoNotJoin(nn.Module):
    """Two outputs for one place, of different lengths."""

    def forward(self, features):
        return [features[:, None].expand(-1, 2, -1), features[:, None].expand(-1, 3, -1)]


@broken("embedders", "dropped as a whole", {"features": torch.arange(12.0).view(3, 4)})
class ScattersRows(nn.Module):
    """Two rows per sample, which are not neighbours."""

    def forward(self, features):
        return torch.cat([features, features])


@broken("embedders", "its check leaves the entries as they are", FEATURES)
class CheckConverts(nn.Module):
    """A check that writes into what it looks at."""

    def forward(self, features):
        return features

    def check(self, features):
        if not isinstance(features, Tensor):
            raise ValueError("a tensor can be embedded")
        features.mul_(2)


@broken("conditioners", "it gives a Conditioning(?s:.*)a dict", CLASSES)
class LooseDict(OneClass):
    """By name, in a dict."""

    def forward(self, batch, *, force_zero=(), drop=True, generator=None):
        return {"vector": self.embedders[0](batch["cls"])}


@broken("conditioners", "input_keys names each entry", CLASSES)
class KeysTwice(OneClass):
    """The same key, twice."""

    @property
    def input_keys(self):
        return ("cls", "cls")


@pytest.mark.parametrize("case", broken)
def test_it_is_found(case: Case):
    case.check()


@pytest.mark.parametrize(
    ("kind", "component", "inputs"),
    [
        ("conditioners", OneClass, CLASSES),
    ],
)
def test_what_the_broken_ones_were_made_from_is_whole(kind, component, inputs):
    check_component(kind, component, inputs=inputs)


class AddsNoise(nn.Module):
    """The features with noise from torch's random state, three rows per sample."""

    def forward(self, features):
        return (features + 0.1 * torch.randn_like(features)).repeat_interleave(3, dim=0)


def test_an_embedder_may_be_random_and_give_several_rows_per_sample():
    check_component("embedders", AddsNoise, inputs={"features": torch.arange(12.0).view(3, 4)})
