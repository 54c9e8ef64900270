from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sgm_core.conditioning import Conditioning
from sgm_plugins.discretizations import EDMDiscretization
from sgm_plugins.samplers.euler_edm import EulerEDMSampler
from sgm_plugins.samplers.linear_multistep import LinearMultistepSampler, coefficients

EDM = EDMDiscretization(sigma_min=1e-3, sigma_max=20.0)
X = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(
    ("order", "expected"),
    [(1, [1.0]), (2, [3 / 2, -1 / 2]), (3, [23 / 12, -16 / 12, 5 / 12]), (4, [55 / 24, -59 / 24, 37 / 24, -9 / 24])],
)
def test_equal_steps_give_the_weights_of_adams_and_bashforth(order: int, expected: list[float]) -> None:
    past = [5.0 + 0.5 * j for j in range(order)]
    assert coefficients(past, 4.5) == pytest.approx([-0.5 * weight for weight in expected], rel=1e-13)


@pytest.mark.parametrize("order", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("sigma_next", [0.9, 0.1, 0.0])
def test_polynomials_of_lower_degree_are_integrated_exactly(order: int, sigma_next: float) -> None:
    past = [1.0, 1.7, 2.0, 5.0, 20.0, 80.0][:order]
    weights = coefficients(past, sigma_next)
    for degree in range(order):
        integral = (sigma_next ** (degree + 1) - 1) / (degree + 1)
        by_weights = sum(weight * sigma**degree for weight, sigma in zip(weights, past, strict=True))
        assert by_weights == pytest.approx(integral, rel=1e-12)


def test_levels_that_lie_close_together_lose_no_digits() -> None:
    past = [1e-3 * (1 + 1e-6 * j) for j in range(4)]
    weights = coefficients(past, 1e-3 * (1 - 1e-6))
    assert weights == pytest.approx([-1e-9 * w / 24 for w in (55, -59, 37, -9)], rel=1e-8)


def test_order_one_is_eulers_method() -> None:
    def denoise(x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        return torch.tanh(x / (1 + sigma.reshape(-1, 1, 1, 1) ** 2))

    out = LinearMultistepSampler(EDM, 9, order=1)(denoise, X, Conditioning())
    torch.testing.assert_close(out, EulerEDMSampler(EDM, 9)(denoise, X, Conditioning()), rtol=1e-12, atol=1e-14)


def test_as_many_slopes_are_used_as_the_order_says() -> None:
    """Slopes that follow a polynomial of degree 3 are integrated exactly once there are four of them."""

    def cubic(sigma: float) -> float:
        return sigma**4 - 2 * sigma**2

    def integrate(order: int) -> float:
        """From 9 to 1, the error in x after the last three of seven steps, by the derivative of `cubic`."""
        sampler, levels = LinearMultistepSampler(EDM, order=order), [9.0, 8.0, 7.0, 5.0, 4.0, 2.0, 1.0]
        states: list[float] = []

        def D(x: Tensor, sigma: float) -> Tensor:
            states.append(x.item())
            return x - sigma * (4 * sigma**3 - 4 * sigma)

        x = torch.tensor(cubic(levels[0]), dtype=torch.float64)
        out = sampler.integrate(D, x, levels, lambda: x, lambda i: None)
        return (out.item() - states[3]) - (cubic(levels[-1]) - cubic(levels[3]))

    assert integrate(4) == pytest.approx(0, abs=1e-9)
    assert abs(integrate(3)) > 1
