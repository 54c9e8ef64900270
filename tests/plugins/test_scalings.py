from __future__ import annotations

import pytest
import torch

from sgm_core.roles import Scaling
from sgm_plugins.scalings import EDMScaling, EpsScaling, VScaling, VScalingEDMNoise

ALL = [EDMScaling(), EDMScaling(sigma_data=1.3), EpsScaling(), VScaling(), VScalingEDMNoise()]
SIGMA = torch.logspace(-3, 2, 30, dtype=torch.float64)


@pytest.mark.parametrize(
    ("scaling", "sigma_data"),
    [(EDMScaling(), 0.5), (EDMScaling(1.3), 1.3), (VScaling(), 1.0), (VScalingEDMNoise(), 1.0)],
)
def test_input_and_target_of_the_network_have_unit_variance(scaling: Scaling, sigma_data: float) -> None:
    c_skip, c_out, c_in, _ = scaling(SIGMA)
    one = torch.ones_like(SIGMA)
    torch.testing.assert_close(c_in**2 * (sigma_data**2 + SIGMA**2), one)
    # target (x0 - c_skip * x) / c_out with x = x0 + sigma * noise
    torch.testing.assert_close((((1 - c_skip) * sigma_data) ** 2 + (c_skip * SIGMA) ** 2) / c_out**2, one)


@pytest.mark.parametrize("scaling", ALL)
def test_unit_variance_data_gives_unit_variance_input_or_the_scalings_own(scaling: Scaling) -> None:
    sigma_data = getattr(scaling, "sigma_data", 1.0)
    torch.testing.assert_close(scaling(SIGMA).c_in, (sigma_data**2 + SIGMA**2) ** -0.5)


def test_a_network_that_knows_the_noise_recovers_x0_with_eps() -> None:
    x0, noise = torch.randn(2, 30, dtype=torch.float64)
    c_skip, c_out, _, c_noise = EpsScaling()(SIGMA)
    torch.testing.assert_close(c_skip * (x0 + SIGMA * noise) + c_out * noise, x0)
    assert torch.equal(c_noise, SIGMA)


@pytest.mark.parametrize("scaling", [VScaling(), VScalingEDMNoise()])
def test_a_network_that_knows_the_velocity_recovers_x0_with_v(scaling: Scaling) -> None:
    x0, noise = torch.randn(2, 30, dtype=torch.float64)
    alpha, std = 1 / (1 + SIGMA**2).sqrt(), SIGMA / (1 + SIGMA**2).sqrt()  # of the variance-preserving process
    v = alpha * noise - std * x0  # Salimans and Ho 2022, section 2.4
    c_skip, c_out, _, _ = scaling(SIGMA)
    torch.testing.assert_close(c_skip * (x0 + SIGMA * noise) + c_out * v, x0)


@pytest.mark.parametrize("scaling", [EDMScaling(), VScalingEDMNoise()])
def test_logarithmic_noise_conditioning(scaling: Scaling) -> None:
    torch.testing.assert_close((4 * scaling(SIGMA).c_noise).exp(), SIGMA)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("scaling", ALL)
def test_at_sigma_zero_all_is_finite_and_the_network_does_not_count(scaling: Scaling, dtype: torch.dtype) -> None:
    """B19: c_noise was -inf."""
    c_skip, c_out, c_in, c_noise = scaling(torch.zeros(1, dtype=dtype))
    assert c_noise.isfinite().all()
    assert c_in.isfinite().all()
    assert c_skip.item() == pytest.approx(1, abs=1e-6)
    assert c_out.item() == 0
