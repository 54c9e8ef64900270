"""Polynomials in sigma, or in the time of flow models."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sgm_plugins.discretizations import EDMDiscretization
from sgm_plugins.samplers.coordinate import in_coordinate
from sgm_plugins.samplers.heun_edm import HeunEDMSampler
from sgm_plugins.samplers.ipndm import IPNDMSampler
from sgm_plugins.samplers.linear_multistep import LinearMultistepSampler

EDM = EDMDiscretization()
X = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Made = Callable[[str], HeunEDMSampler | LinearMultistepSampler | IPNDMSampler]
MAKE: dict[str, Made] = {
    "heun_edm": lambda c: HeunEDMSampler(EDM, coordinate=c),  # type: ignore[arg-type]
    "linear_multistep": lambda c: LinearMultistepSampler(EDM, coordinate=c),  # type: ignore[arg-type]
    "ipndm": lambda c: IPNDMSampler(EDM, coordinate=c),  # type: ignore[arg-type]
}


def test_there_and_back() -> None:
    D = lambda x, sigma: x + sigma  # noqa: E731
    for sigmas in ([math.inf, 3.0, 1.0], [9.0, 3.0, 0.0]):
        D_t, y, ts, back = in_coordinate("t", D, X, sigmas)
        assert ts == [1.0 if math.isinf(s) else s / (1 + s) for s in sigmas]
        x = X if math.isinf(sigmas[0]) else X / (1 + sigmas[0])
        assert torch.equal(y, x)
        torch.testing.assert_close(D_t(y, ts[1]), y * 4 + 3)  # sigma 3
        torch.testing.assert_close(back(y), y * (1 + sigmas[-1]))
    assert in_coordinate("sigma", D, X, [9.0, 3.0])[:3] == (D, X, [9.0, 3.0])


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize(
    ("coordinate", "levels"), [("sigma", [8.0, 6.0, 4.0, 2.0, 0.0]), ("t", [math.inf, 4.0, 1.5, 2 / 3, 0.25, 0.0])]
)
def test_slopes_that_are_a_line_in_the_coordinate_are_integrated_exactly(
    name: str, coordinate: str, levels: list[float]
) -> None:
    """On levels that are even in it; after the first step, which knows one slope (Heun's knows two)."""
    axis = lambda s: s if coordinate == "sigma" else (1.0 if math.isinf(s) else s / (1 + s))  # noqa: E731
    scale = lambda s: 1.0 if coordinate == "sigma" or math.isinf(s) else 1 + s  # noqa: E731
    states: dict[float, Tensor] = {}

    def D(x: Tensor, sigma: float) -> Tensor:
        a, state = axis(sigma), x / scale(sigma)
        states[sigma] = state
        return state - a * (1 + 2 * a)  # the slope of a + a^2

    sampler = MAKE[name](coordinate)
    sampler.integrate(D, X * scale(levels[0]), levels, lambda: X, lambda i: None)
    first, last = axis(levels[1]), axis(levels[-2])
    rise = states[levels[-2]] - states[levels[1]]
    torch.testing.assert_close(rise, torch.full_like(X, last + last**2 - first - first**2), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", MAKE)
def test_the_coordinate_matters_and_sigma_is_the_default(name: str) -> None:
    D = lambda x, sigma: torch.tanh(x / (1 + sigma))  # noqa: E731
    levels = [9.0, 4.0, 2.0, 1.0, 0.0]
    in_sigma, in_t = (MAKE[name](c).integrate(D, X, levels, lambda: X, lambda i: None) for c in ("sigma", "t"))
    default = type(MAKE[name]("sigma"))(EDM).integrate(D, X, levels, lambda: X, lambda i: None)
    assert torch.equal(default, in_sigma)
    assert not torch.allclose(in_sigma, in_t, rtol=0, atol=1e-6)


def test_churn_in_t_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"s_churn is 2.0, and churn raises sigma: coordinate 't' works with s_churn 0"
    ):
        HeunEDMSampler(EDM, coordinate="t", s_churn=2.0)
