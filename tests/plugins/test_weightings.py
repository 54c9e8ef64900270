from __future__ import annotations

import pytest
import torch

from sgm_core.roles import Scaling, Weighting
from sgm_core.testing import check_component
from sgm_plugins.scalings import EDMScaling, EpsScaling, FlowScaling, VScaling, X0Scaling
from sgm_plugins.weightings import (
    CosMapWeighting,
    DebiasedWeighting,
    EDMWeighting,
    EpsWeighting,
    FlowWeighting,
    MinSNRWeighting,
    P2Weighting,
    SigmaSqrtWeighting,
    UnitWeighting,
    VWeighting,
)

SIGMA = torch.logspace(-3, 2, 30, dtype=torch.float64)


@pytest.mark.parametrize(
    ("weighting", "scaling"),
    [
        (EDMWeighting(), EDMScaling()),
        (EDMWeighting(sigma_data=1.3), EDMScaling(sigma_data=1.3)),
        (VWeighting(), VScaling()),
        (EpsWeighting(), EpsScaling()),
        (FlowWeighting(), FlowScaling()),
        (UnitWeighting(), X0Scaling()),
    ],
)
def test_the_weight_makes_a_plain_loss_on_the_networks_output(weighting: Weighting, scaling: Scaling) -> None:
    torch.testing.assert_close(weighting(SIGMA) * scaling(SIGMA).c_out ** 2, torch.ones_like(SIGMA))


def test_unit_weights_are_one_in_the_dtype_of_sigma() -> None:
    assert torch.equal(UnitWeighting()(SIGMA), torch.ones(30, dtype=torch.float64))


T = SIGMA / (1 + SIGMA)


@pytest.mark.parametrize(
    ("weighting", "formula"),
    [
        (FlowWeighting(), T**-2),
        (MinSNRWeighting(), (SIGMA**-2).clamp(max=5)),
        (MinSNRWeighting(gamma=0.5), (SIGMA**-2).clamp(max=0.5)),
        (DebiasedWeighting(), 1 / SIGMA),
        (P2Weighting(), 1 / (1 + SIGMA**2)),
        (P2Weighting(k=2.0, gamma=0.5), SIGMA**-2 / (2 + SIGMA**-2).sqrt()),
        (P2Weighting(gamma=0.0), SIGMA**-2),
        (SigmaSqrtWeighting(), T**-4),
        (CosMapWeighting(), 2 / (torch.pi * T**2 * (1 - 2 * T + 2 * T**2))),
    ],
)
def test_weights_of_the_papers(weighting: Weighting, formula: torch.Tensor) -> None:
    torch.testing.assert_close(weighting(SIGMA), formula, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("name", "of"), [("sigma_sqrt", SigmaSqrtWeighting()), ("cosmap", CosMapWeighting())])
def test_weights_of_the_velocity_are_those_of_training_scripts(name: str, of: Weighting) -> None:
    """Theirs weigh the error of the velocity; an error of x0 is t times that."""
    from diffusers.training_utils import compute_loss_weighting_for_sd3

    theirs = compute_loss_weighting_for_sd3(name, T).double()  # one of the two is rounded to float32
    torch.testing.assert_close(of(SIGMA) * T**2, theirs, rtol=1e-6, atol=0)


def test_min_snr_is_what_scripts_do_for_noise_and_for_velocity() -> None:
    """They weigh the network's own error by min(SNR, gamma) / SNR, or / (SNR + 1) for v."""
    snr, gamma = SIGMA**-2, 5.0
    on_eps = snr.clamp(max=gamma) / snr
    on_v = snr.clamp(max=gamma) / (snr + 1)
    ours = MinSNRWeighting(gamma)(SIGMA)
    torch.testing.assert_close(on_eps * EpsWeighting()(SIGMA), ours)
    torch.testing.assert_close(on_v * VWeighting()(SIGMA), ours)


LIMITS = [
    (UnitWeighting(), 1.0),
    (EDMWeighting(), 4.0),
    (EDMWeighting(2.0), 0.25),
    (VWeighting(), 1.0),
    (EpsWeighting(), 0.0),
    (FlowWeighting(), 1.0),
    (MinSNRWeighting(), 0.0),
    (DebiasedWeighting(), 0.0),
    (P2Weighting(), 0.0),
    (SigmaSqrtWeighting(), 1.0),
    (CosMapWeighting(), 2 / torch.pi),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("weighting", "limit"), LIMITS)
def test_pure_noise_has_the_limit_of_the_weight(weighting: Weighting, limit: float, dtype: torch.dtype) -> None:
    far = [1e8, 2e9, 1e20, torch.finfo(dtype).max, float("inf")]  # from 1e20 the square overflows in float32
    weights = weighting(torch.tensor([*far, 2.0], dtype=dtype))
    assert weights.dtype == dtype
    assert weights[:-1].tolist() == pytest.approx([limit] * len(far), rel=1e-6, abs=2e-8)
    assert weights[-1] == weighting(torch.tensor([2.0], dtype=dtype))


def test_at_finite_levels_the_old_weights_are_the_same_to_the_last_bit() -> None:
    for sigma in (SIGMA, SIGMA.float()):
        assert torch.equal(EDMWeighting()(sigma), (sigma**2 + 0.5**2) / (sigma * 0.5) ** 2)
        assert torch.equal(VWeighting()(sigma), (sigma**2 + 1) / sigma**2)


@pytest.mark.parametrize("name", ["flow", "min_snr", "debiased", "p2", "sigma_sqrt", "cosmap"])
def test_they_keep_the_promises_of_a_weighting(name: str) -> None:
    check_component("weightings", name)
