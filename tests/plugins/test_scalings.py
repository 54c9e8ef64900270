from __future__ import annotations

import pytest
import torch

from sgm_core.roles import Scaling
from sgm_core.testing import check_component
from sgm_plugins.scalings import EDMScaling, EpsScaling, FlowScaling, VScaling, VScalingEDMNoise, X0Scaling

V = [VScaling(sigma_data, c_noise) for sigma_data in (1.0, 0.5) for c_noise in ("sigma", "log", "atan", "t")]
ALL = [EDMScaling(), EDMScaling(sigma_data=1.3), EpsScaling(), VScalingEDMNoise(), *V]
FLOW = [FlowScaling(), FlowScaling(1.0), FlowScaling(reversed=True)]
X0 = [X0Scaling(), X0Scaling(multiplier=1.0), X0Scaling("vp")]
SIGMA = torch.logspace(-3, 2, 30, dtype=torch.float64)


@pytest.mark.parametrize(
    ("scaling", "sigma_data"),
    [(EDMScaling(), 0.5), (EDMScaling(1.3), 1.3), (VScalingEDMNoise(), 1.0), *((v, v.sigma_data) for v in V)],
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
@pytest.mark.parametrize("scaling", [*ALL, *FLOW])
def test_at_sigma_zero_all_is_finite_and_the_network_does_not_count(scaling: Scaling, dtype: torch.dtype) -> None:
    """B19: c_noise was -inf."""
    c_skip, c_out, c_in, c_noise = scaling(torch.zeros(1, dtype=dtype))
    assert c_noise.isfinite().all()
    assert c_in.isfinite().all()
    assert c_skip.item() == pytest.approx(1, abs=1e-6)
    assert c_out.item() == 0


@pytest.mark.parametrize("scaling", FLOW)
def test_a_network_that_knows_the_velocity_of_the_straight_path_recovers_x0(scaling: FlowScaling) -> None:
    x0, noise = torch.randn(2, 30, dtype=torch.float64)
    t = SIGMA / (1 + SIGMA)
    c_skip, c_out, c_in, c_noise = scaling(SIGMA)
    state, velocity = (1 - t) * x0 + t * noise, noise - x0
    torch.testing.assert_close(c_in * (x0 + SIGMA * noise), state)  # the network sees the flow's state
    F_x = -velocity if scaling.reversed else velocity
    torch.testing.assert_close(c_skip * (x0 + SIGMA * noise) + c_out * F_x, x0)
    torch.testing.assert_close(c_noise, scaling.multiplier * (1 - t if scaling.reversed else t))


@pytest.mark.parametrize("scaling", X0)
def test_the_network_gives_x0_itself_and_sees_the_state_of_its_path(scaling: X0Scaling) -> None:
    c_skip, c_out, c_in, c_noise = scaling(SIGMA)
    assert not c_skip.any()
    assert (c_out == 1).all()
    if scaling.path == "flow":
        torch.testing.assert_close(c_in, 1 / (1 + SIGMA))
        torch.testing.assert_close(c_noise, scaling.multiplier * SIGMA / (1 + SIGMA))
    else:
        torch.testing.assert_close(c_in, (1 + SIGMA**2) ** -0.5)
        assert torch.equal(c_noise, SIGMA)


def test_what_v_tells_the_network() -> None:
    assert torch.equal(VScaling(0.5)(SIGMA).c_noise, SIGMA)
    torch.testing.assert_close(VScaling(0.5, "log")(SIGMA).c_noise, SIGMA.log() / 4)
    torch.testing.assert_close(VScaling(0.5, "atan")(SIGMA).c_noise.tan(), SIGMA / 0.5)
    torch.testing.assert_close(VScaling(0.5, "t")(SIGMA).c_noise, SIGMA / (1 + SIGMA))


def test_v_with_the_arc_tangent_is_trigflow() -> None:
    """Lu and Song 2024: x_t = cos(t) x0 + sin(t) z with z of deviation sigma_data, D = cos(t) x_t - sin(t) sd F."""
    sigma_data = 0.5
    x0, z = sigma_data * torch.randn(2, 30, dtype=torch.float64)
    t = (SIGMA / sigma_data).atan()
    x_t, x = t.cos() * x0 + t.sin() * z, x0 + SIGMA * z / sigma_data
    c_skip, c_out, c_in, c_noise = VScaling(sigma_data, "atan")(SIGMA)
    torch.testing.assert_close(c_in * x, x_t / sigma_data)
    torch.testing.assert_close(c_noise, t)
    F = torch.randn(30, dtype=torch.float64)
    torch.testing.assert_close(c_skip * x + c_out * F, t.cos() * x_t - t.sin() * sigma_data * F)


@pytest.mark.parametrize("sigma", [1e6, 1e7, 1e8])
@pytest.mark.parametrize("scaling", [s for s in (*ALL, *FLOW, *X0) if s.at_infinity() is not None])
def test_the_limits_at_infinity_are_those_of_large_levels(scaling: Scaling, sigma: float) -> None:
    c_skip, c_out, c_in, c_noise = scaling(torch.tensor([sigma], dtype=torch.float64))
    found = [float(c_skip * sigma), float(c_out), float(c_in * sigma), float(c_noise)]
    limits = [sigma if limit == float("inf") else limit for limit in scaling.at_infinity() or ()]
    assert found == pytest.approx(limits, rel=2 / sigma, abs=1000 / sigma)


def test_predictions_of_noise_and_logarithms_have_no_limit() -> None:
    for scaling in (EpsScaling(), EDMScaling(), VScalingEDMNoise(), VScaling(c_noise="log")):
        assert scaling.at_infinity() is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_v_is_to_the_last_bit_what_it_was_without_its_parameters(dtype: torch.dtype) -> None:
    sigma = SIGMA.to(dtype)
    total = sigma**2 + 1
    before = (total.reciprocal(), -sigma / total.sqrt(), total.sqrt().reciprocal(), sigma)
    assert all(torch.equal(a, b) for a, b in zip(VScaling()(sigma), before, strict=True))
    told = sigma.clamp(min=torch.finfo(dtype).tiny).log() / 4
    for scaling in (VScalingEDMNoise(), VScaling(c_noise="log")):
        assert all(torch.equal(a, b) for a, b in zip(scaling(sigma), (*before[:3], told), strict=True))


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("flow", {}),
        ("flow", {"multiplier": 1.0, "reversed": True}),
        ("x0", {}),
        ("x0", {"path": "vp"}),
        *(("v", {"sigma_data": 0.5, "c_noise": c_noise}) for c_noise in ("sigma", "log", "atan", "t")),
    ],
)
def test_they_keep_the_promises_of_a_scaling(name: str, params: dict[str, object]) -> None:
    check_component("scalings", name, **params)
