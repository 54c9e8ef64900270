"""Parts of a grid: for a model that only begins, or only ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

from annotated_types import Ge, Le
from torch import Tensor

from sgm_core.roles import Discretization


class Img2ImgDiscretization(Discretization):
    """The low end of a grid: image to image, from an image with some noise to an image without.

    Meng et al. 2021, arXiv:2108.01073. The start is x0 + sigma * noise with the highest level that is left; the
    schedule has about strength * n of the n steps, and at least one.

    Args:
        discretization: the whole grid.
        strength: share of the schedule that is kept. 1 keeps all, 0 leaves no step and the image as it is.

    Raises:
        ValueError: strength is not between 0 and 1.
    """

    def __init__(self, discretization: Discretization, strength: Annotated[float, Ge(0), Le(1)] = 1.0) -> None:
        _check_strength(strength)
        self.discretization = discretization
        self.needs_shape = discretization.needs_shape
        self.strength = strength

    def for_shape(self, shape: Sequence[int]) -> Discretization:
        return Img2ImgDiscretization(self.discretization.for_shape(shape), self.strength) if self.needs_shape else self

    def sigmas(self, n: int) -> Tensor:
        """Of the n sigmas the lowest, descending, float32; all of them at strength 1."""
        whole = self.discretization.sigmas(n)
        return whole[len(whole) - share(self.strength, len(whole)) :]

    @staticmethod
    def infinite(n: int | None, *, discretization: Callable[[int | None], bool], strength: float) -> bool:
        return discretization(n) and (strength == 1 or (n == 1 and strength > 0))


class Txt2NoisyDiscretization(Discretization):
    """The high end of a grid: what is left of the noise is for another model, a refiner, to remove.

    Podell et al. 2023, arXiv:2307.01952, section 2.5. The schedule ends above 0, at the level where
    `Img2ImgDiscretization` with the same strength begins.

    Args:
        discretization: the whole grid.
        strength: share of the schedule that is left out at its low end, at least one step. 0 leaves out none.
        original_steps: steps that this is a share of; by default those of the grid.

    Raises:
        ValueError: strength is not between 0 and 1.
    """

    def __init__(
        self,
        discretization: Discretization,
        strength: Annotated[float, Ge(0), Le(1)] = 0.0,
        original_steps: Annotated[int, Ge(1)] | None = None,
    ) -> None:
        _check_strength(strength)
        self.discretization = discretization
        self.needs_shape = discretization.needs_shape
        self.strength = strength
        self.original_steps = original_steps

    def for_shape(self, shape: Sequence[int]) -> Discretization:
        if not self.needs_shape:
            return self
        return Txt2NoisyDiscretization(self.discretization.for_shape(shape), self.strength, self.original_steps)

    def __call__(self, n: int) -> Tensor:
        """The schedule without its low end. ValueError if no step is left of it, unless strength is 1."""
        whole = self.discretization(n)
        steps = len(whole) - 1
        left_out = share(self.strength, steps if self.original_steps is None else self.original_steps)
        if left_out > steps or (left_out == steps and 0 < self.strength < 1):
            of = "" if self.original_steps is None else f" of original_steps {self.original_steps}"
            raise ValueError(
                f"strength {self.strength}{of} leaves out {left_out} steps, and the schedule has {steps}; "
                "more steps work, or a smaller strength"
            )
        return whole[: len(whole) - left_out]

    def sigmas(self, n: int) -> Tensor:
        """Of the n sigmas the highest, descending, float32; all of them at strength 0."""
        schedule = self(n)
        return schedule[schedule > 0]

    @staticmethod
    def infinite(n: int | None, *, discretization: Callable[[int | None], bool]) -> bool:
        return discretization(n)


def share(strength: float, steps: int) -> int:
    """How many of the steps a share of the schedule is: rounded down, but at least one for a share above 0."""
    levels = int(strength * (steps + 1))  # as the ancestor counts: the final zero is a level, too
    return max(levels - 1, 1 if strength > 0 else 0)


def _check_strength(strength: float) -> None:
    if not 0 <= strength <= 1:
        raise ValueError(f"strength is {strength}; it is a share of the schedule, from 0 to 1")
