"""Levels that are written out."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated

import torch
from annotated_types import Gt, Le, MinLen
from torch import Tensor

from sgm_core.roles import Discretization
from sgm_plugins.discretizations.table import sigma_of


class LevelsDiscretization(Discretization):
    """A list of levels, as distilled models are published with. The final 0 is left out.

    A sampler's num_steps is the length of the list.

    Args:
        t: times sigma / (1 + sigma), above 0 and up to 1, where 1 is pure noise.
        sigmas: noise over signal, above 0; `.inf` is pure noise.

    Raises:
        ValueError: not exactly one of the two is given; a level that is not below the one before.
    """

    def __init__(
        self,
        t: Annotated[list[Annotated[float, Gt(0), Le(1)]], MinLen(1)] | None = None,
        sigmas: Annotated[list[Annotated[float, Gt(0)]], MinLen(1)] | None = None,
    ) -> None:
        given = t if sigmas is None else sigmas
        if given is None or (t is not None and sigmas is not None):
            raise ValueError(f"{'neither' if given is None else 'both'} t and sigmas: one list of levels is needed")
        for before, after in pairwise(given):
            if not after < before:
                raise ValueError(f"levels have to fall from step to step, and {after:g} follows {before:g}")
        levels = torch.tensor(given, dtype=torch.float64, device="cpu")
        self.levels = sigma_of(1 - levels) if sigmas is None else levels.float()
        self.num_timesteps: int = len(given)

    def sigmas(self, n: int) -> Tensor:
        """The list, float32. ValueError if it has another length than n."""
        if n != len(self.levels):
            raise ValueError(f"num_steps is {n}, and the list has {len(self.levels)} levels: both are the same number")
        return self.levels.clone()

    @staticmethod
    def infinite(n: int | None, *, t: list[float] | None, sigmas: list[float] | None) -> bool:
        return t[0] == 1 if t is not None else sigmas is not None and sigmas[0] == math.inf
