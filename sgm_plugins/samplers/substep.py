"""The sampler of models that were distilled into a few steps (SDXL Turbo)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

from annotated_types import Ge
from torch import Tensor

from sgm_core.roles import Discretization, Guider, Sampler
from sgm_plugins.samplers.euler_ancestral import EulerAncestralSampler


class SubstepSampler(Sampler):
    """Ancestral sampling at the first few of the levels that a distilled model was trained for, then straight to 0.

    Sauer et al. 2023, arXiv:2311.17042: the student of adversarial diffusion distillation knows some levels of the
    teacher's table only. Here they are every `stride`-th from the top, so that 1 to 4 steps of SDXL Turbo start at
    the timesteps 999, 899, 799 and 699. Such models want no guider.

    Args:
        discretization: the teacher's noise levels.
        num_steps: steps unless the call says otherwise.
        guider: none means the plain denoiser.
        eta: how much noise is added after each step; 0 is Euler's method, 1 is ancestral.
        s_noise: factor of that noise.
        num_levels: size of the teacher's table, asked of `discretization`.
        stride: from one step to the next, in entries of that table; more steps than fit are spread over it evenly.

    Raises:
        ValueError: more steps or levels than there are.
    """

    def __init__(
        self,
        discretization: Discretization,
        num_steps: Annotated[int, Ge(1)] | None = 1,
        guider: Guider | None = None,
        eta: Annotated[float, Ge(0)] = 1.0,
        s_noise: Annotated[float, Ge(0)] = 1.0,
        num_levels: Annotated[int, Ge(1)] = 1000,
        stride: Annotated[int, Ge(1)] = 100,
    ) -> None:
        levels = discretization.num_timesteps
        if levels is not None and num_levels > levels:
            raise ValueError(f"num_levels is {num_levels}, and the discretization has {levels} (num_timesteps)")
        if num_steps is not None and num_steps > num_levels:
            raise ValueError(f"num_steps is {num_steps}, and the table has {num_levels} levels (num_levels)")
        super().__init__(Substeps(discretization, num_levels, stride), num_steps, guider)
        self.euler_ancestral = EulerAncestralSampler(self.discretization, num_steps, guider, eta, s_noise)

    def integrate(
        self,
        D: Callable[[Tensor, float], Tensor],
        x: Tensor,
        sigmas: list[float],
        noise: Callable[[], Tensor],
        report: Callable[[int], None],
    ) -> Tensor:
        return self.euler_ancestral.integrate(D, x, sigmas, noise, report)


class Substeps(Discretization):
    """The entries 0, stride, 2 * stride, ... of a table of `num_levels` levels, from the highest down."""

    def __init__(self, table: Discretization, num_levels: int, stride: int) -> None:
        self.table = table
        self.needs_shape = table.needs_shape
        self.num_levels = num_levels
        self.stride = stride

    def for_shape(self, shape: Sequence[int]) -> Discretization:
        return Substeps(self.table.for_shape(shape), self.num_levels, self.stride) if self.needs_shape else self

    def sigmas(self, n: int) -> Tensor:
        """n sigmas, descending, float32. ValueError for n < 1, or above the size of the table."""
        table = self.table.sigmas(self.num_levels)
        if not 1 <= n <= len(table):
            raise ValueError(f"n is {n}; this table has 1 to {len(table)} noise levels (num_levels)")
        stride = min(self.stride, len(table) / n)
        return table[[int(i * stride) for i in range(n)]]
