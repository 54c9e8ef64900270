"""What is true of every component: each broken promise is found."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from support.broken_components import CLASSES, FEATURES, Case, Cases
from torch import Tensor, nn

from sgm_core.roles import Weighting

broken = Cases()


@broken("weightings", "a component has a docstring")
class Undocumented(Weighting):
    def __call__(self, sigma):
        return torch.ones_like(sigma)


@broken("weightings", r"every parameter is annotated(?s:.*)'power' is not", power=2.0)
class Unannotated(Weighting):
    """sigma^-power."""

    def __init__(self, power):
        self.power = power

    def __call__(self, sigma):
        return sigma**-self.power


@broken("weightings", r"annotation can be read at run time(?s:.*)'Elsewhere'", power=2.0)
class UnreadableHint(Weighting):
    """sigma^-power."""

    def __init__(self, power: Elsewhere) -> None:  # noqa: F821
        self.power = power

    def __call__(self, sigma):
        return sigma**-self.power


@broken("weightings", "can be written in a config", table=torch.ones(3))
class NeedsAnObject(Weighting):
    """A table."""

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def __call__(self, sigma):
        return torch.ones_like(sigma)


@broken("weightings", r"\*\*kwargs in the constructor")
class TakesAnything(Weighting):
    """1."""

    def __init__(self, **kwargs: Any) -> None:
        self.options = kwargs

    def __call__(self, sigma):
        return torch.ones_like(sigma)


@broken("weightings", r"it is a sgm_core\.roles\.Weighting")
class NoRole:
    """1, but nobody's weighting."""

    def __call__(self, sigma):
        return torch.ones_like(sigma)


@broken("embedders", r"it is a torch\.nn\.Module", FEATURES)
class NoModule:
    """A call, but nothing to train, move or save."""

    def __call__(self, features):
        return features


@broken("weightings", "can be used as its role says(?s:.*)RuntimeError: not today")
class Raises(Weighting):
    """Nothing."""

    def __call__(self, sigma):
        raise RuntimeError("not today")


@broken("weightings", "left as it was(?s:.*)'sigma' differs")
class ChangesItsInput(Weighting):
    """1 / sigma^2."""

    def __call__(self, sigma):
        return sigma.square_().reciprocal()


@broken("weightings", "the same call under the same seed")
class RemembersCalls(Weighting):
    """The number of the call."""

    def __init__(self) -> None:
        self.calls = itertools.count(1)

    def __call__(self, sigma):
        return torch.full_like(sigma, next(self.calls))


@broken("weightings", "can be pickled")
class HoldsALambda(Weighting):
    """1."""

    def __init__(self) -> None:
        self.weight = lambda sigma: torch.ones_like(sigma)

    def __call__(self, sigma):
        return self.weight(sigma)


@broken("embedders", "state dict holds all", CLASSES)
class ForgetsATable(nn.Module):
    """A random vector per class, which no checkpoint has."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.randn(10, 4), persistent=False)

    def forward(self, cls):
        return self.table[cls]


@broken("embedders", "state dict loads into another", CLASSES)
class GrowsParameters(nn.Module):
    """A vector per class, made when first used."""

    def forward(self, cls):
        if not hasattr(self, "table"):
            self.table = nn.Parameter(torch.ones(10, 4))
        return self.table[cls]


@broken("embedders", "move with it to another device(?s:.*)'table'", CLASSES)
class LooseTensor(nn.Module):
    """A fixed vector per class, which stays behind."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.ones(10, 4)

    def forward(self, cls):
        return self.table[cls]


@broken("embedders", r"works in torch\.float64", FEATURES)
class NamesADtype(nn.Module):
    """A linear layer that sees float32 only."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, features):
        return self.linear(features.float())


@broken("embedders", "takes part in no gradient", FEATURES)
class ThawsItself(nn.Module):
    """A linear layer that cannot be frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, features):
        return self.linear.requires_grad_(True)(features)


@broken("callbacks", r"it is a lightning\.\S+Callback")
class NoCallback:
    """Nothing that Lightning calls."""


@broken("embedders", "a state dict that was loaded is given back", FEATURES)
class LoadsNothing(nn.Module):
    """A linear layer that keeps the weights it was drawn with."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, features):
        return self.linear(features)

    def load_state_dict(self, state_dict, strict=True, assign=False):
        pass


@broken("embedders", "it can be unfrozen", FEATURES)
class StaysFrozen(nn.Module):
    """A linear layer that nobody may train."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, features):
        return self.linear(features)

    def requires_grad_(self, requires_grad=True):
        return super().requires_grad_(False)


@broken("embedders", r"its parameters follow `\.to\(torch\.float64\)`", FEATURES)
class StaysInFloat32(nn.Module):
    """A linear layer that is not cast."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, features):
        return self.linear(features)

    def to(self, *args, **kwargs):
        return self


@broken("embedders", r"works in torch\.bfloat16(?s:.*)infinite", FEATURES)
class OverflowsInHalf(nn.Module):
    """A difference that half precision rounds to zero, as a divisor."""

    def forward(self, features):
        return features / ((features + 0.001) - features)


@pytest.mark.parametrize("case", broken)
def test_it_is_found(case: Case):
    case.check()
