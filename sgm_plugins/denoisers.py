"""D(x; sigma): a network behind the preconditioning of Karras et al. 2022, arXiv:2206.00364, eq. 7."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

from sgm_core.conditioning import Conditioning
from sgm_core.roles import Coefficients, Denoiser, Discretization, Preconditioned, Scaling
from sgm_plugins.broadcast import append_dims
from sgm_plugins.discretizations.table import sigma_table


class Preconditioning(Denoiser):
    """Base of denoisers with a scaling, whose limits hold at sigma = inf."""

    scaling: Scaling

    def _with_limit(self, c: Coefficients, sigma: Tensor) -> Coefficients:
        """The coefficients c of sigma (b,); where sigma is infinite the scaling's limits, which act on the noise."""
        limit = self.scaling.at_infinity()
        if limit is None:
            return c
        infinite = sigma.isinf()
        return Coefficients(*(torch.where(infinite, there, here) for there, here in zip(limit, c, strict=True)))


class ContinuousDenoiser(Preconditioning):
    """Any sigma; the network is told the scaling's c_noise.

    Coefficients are computed in float32 at least and the result is like x, so that half precision works.

    Args:
        scaling: the coefficients.
    """

    def __init__(self, scaling: Scaling) -> None:
        super().__init__()
        self.scaling = scaling
        limit = scaling.at_infinity()
        self.takes_infinity = limit is not None and math.isfinite(limit[3])

    @staticmethod
    def infinite(*, scaling: Callable[[], str]) -> bool:
        return scaling() == "c_noise"

    def forward(self, network: Preconditioned, x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        sigma = _at_least_float32(sigma)
        c_skip, c_out, c_in, c_noise = self._with_limit(self.scaling(sigma), sigma)
        c_skip, c_out, c_in = (append_dims(c, x) for c in (c_skip, c_out, c_in))
        if (to := cond.extras.get("next_sigma")) is not None:
            to = _at_least_float32(to)
            cond = _goes_to(cond, self._with_limit(self.scaling(to), to).c_noise)
        F_x = network((c_in * x).to(x.dtype), c_noise, cond)
        return (c_skip * x + c_out * F_x).to(x.dtype)


class DiscreteDenoiser(Preconditioning):
    """The levels of a discrete process: each sigma is replaced by the nearest one of the table.

    A scaling whose c_noise is a logarithm (`log_c_noise`) is for networks that are told that very number: with
    `quantize_c_noise` it is refused.

    Args:
        scaling: the coefficients.
        discretization, num_idx: the levels.
        quantize_c_noise: the network is told the level's index (int64, the timestep of a DDPM), not c_noise.
        append_zero: one more level, sigma = 0.
        flip: index 0 is the lowest level.

    Attributes:
        sigmas: the table, float32, kept so when the module is cast to a lower precision. In the state dict.

    Raises:
        ValueError: a quantised logarithm, more levels than the discretization has, an infinite level without a limit.
    """

    computed_keys: ClassVar[tuple[str, ...]] = ("sigmas",)
    """Files need not have it, and one in half precision has lost it."""

    sigmas: Tensor

    def __init__(
        self,
        scaling: Scaling,
        discretization: Discretization,
        num_idx: Annotated[int, Ge(1)] = 1000,
        quantize_c_noise: bool = True,
        append_zero: bool = False,
        flip: bool = True,
    ) -> None:
        super().__init__()
        if quantize_c_noise and getattr(scaling, "log_c_noise", False):
            raise ValueError(
                "the scaling tells the network a logarithm of sigma, and quantize_c_noise an index of the table in its "
                "place; set quantize_c_noise: false, or take a scaling whose c_noise is sigma, such as eps or v"
            )
        self.scaling = scaling
        self.quantize_c_noise = quantize_c_noise
        self.register_buffer("sigmas", sigma_table(discretization, num_idx, append_zero, flip))
        limit = scaling.at_infinity()
        self.takes_infinity = bool(self.sigmas.isinf().any())
        if self.takes_infinity and (limit is None or not (quantize_c_noise or math.isfinite(limit[3]))):
            raise ValueError(
                "the discretization begins with sigma = inf, pure noise, where this scaling has no limit; "
                "take a scaling that has one (flow, x0, v), or levels that are finite"
            )

    @staticmethod
    def infinite(
        *,
        scaling: Callable[[], str],
        discretization: Callable[[int], bool],
        num_idx: int,
        quantize_c_noise: bool,
    ) -> bool:
        return discretization(num_idx) and (scaling() == "c_noise" or (scaling() == "index" and quantize_c_noise))

    def sigma_to_idx(self, sigma: Tensor) -> Tensor:
        """The index of the nearest level, int64, of the shape of sigma (b,)."""
        sigma = _at_least_float32(sigma)
        distance = (sigma - self.sigmas[:, None]).abs()
        if self.takes_infinity:
            distance = distance.nan_to_num(0.0, math.inf)  # inf - inf
        return distance.argmin(dim=0)

    def idx_to_sigma(self, idx: Tensor) -> Tensor:
        """The level with this index, float32."""
        return self.sigmas[idx]

    def forward(self, network: Preconditioned, x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        idx = self.sigma_to_idx(sigma)
        level = self.idx_to_sigma(idx)
        c_skip, c_out, c_in, c_noise = self._with_limit(self.scaling(level), level)
        c_skip, c_out, c_in = (append_dims(c, x) for c in (c_skip, c_out, c_in))
        if (to := cond.extras.get("next_sigma")) is not None:
            to_idx = self.sigma_to_idx(to)
            cond = _goes_to(cond, to_idx if self.quantize_c_noise else self.scaling(self.idx_to_sigma(to_idx)).c_noise)
        F_x = network((c_in * x).to(x.dtype), idx if self.quantize_c_noise else c_noise, cond)
        return (c_skip * x + c_out * F_x).to(x.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DiscreteDenoiser:
        # `.half()` and Lightning's bf16-true would round the table until neighbouring levels are one
        table = self.sigmas
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        if self.sigmas.dtype != table.dtype:
            self.sigmas = table.to(self.sigmas.device)
        return self


def _goes_to(cond: Conditioning, c_noise: Tensor) -> Conditioning:
    """A step of a flow map: the network is told where it leads."""
    extras = {key: value for key, value in cond.extras.items() if key != "next_sigma"}
    return replace(cond, extras={**extras, "next_timesteps": c_noise})


def _at_least_float32(sigma: Tensor) -> Tensor:
    """In half precision sigma^2 underflows at sigma = 0.0002 and overflows at 256."""
    return sigma.to(torch.promote_types(sigma.dtype, torch.float32))
