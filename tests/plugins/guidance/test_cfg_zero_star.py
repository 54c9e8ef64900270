from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support.guided import COND, D_C, D_U, ESTIMATES, INFINITE, PREDICTIONS, SIGMA, SPACES, UNCOND, Counting, S, X

from sgm_core.testing import check_component
from sgm_plugins.discretizations import EDMDiscretization
from sgm_plugins.guidance.cfg_zero_star import CFGZeroStar
from sgm_plugins.guidance.space import Space
from sgm_plugins.samplers.euler_edm import EulerEDMSampler

LEVELS = [80.0, 40.0, 2.0, 0.0]


@pytest.mark.parametrize("space", SPACES)
def test_it_is_that_of_diffusers_on_the_prediction(space: Space) -> None:
    theirs = pytest.importorskip("diffusers.guiders").ClassifierFreeZeroStarGuidance(5.0, zero_init_steps=0)
    theirs.set_state(step=1, num_inference_steps=4, timestep=torch.tensor(500))
    p_u, p_c = (PREDICTIONS[space](X, S, D) for D in (D_U, D_C))
    expected = ESTIMATES[space](X, S, theirs.forward(p_c, p_u).pred)
    found = CFGZeroStar(5.0, space=space)(Counting(), X, SIGMA, COND, UNCOND)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)  # theirs has its scale in float32
    a = ((p_c * p_u).sum(dim=(1, 2, 3)) / p_u.square().sum(dim=(1, 2, 3)))[:, None, None, None]
    exact = ESTIMATES[space](X, S, a * p_u + 5 * (p_c - a * p_u))
    torch.testing.assert_close(found, exact, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("space", SPACES)
def test_the_first_steps_predict_zero_and_ask_nobody(space: Space) -> None:
    guider, denoise = CFGZeroStar(5.0, 2, space).for_schedule(LEVELS), Counting()
    for level in (80.0, 60.0, 40.0):  # one between, as of a solver's stage
        D = guider.at(level)(denoise, X, SIGMA, COND, UNCOND)
        assert PREDICTIONS[space](X, S, D).abs().max() < 1e-12
    assert denoise.rows == []
    assert torch.equal(
        guider.at(2.0)(denoise, X, SIGMA, COND, UNCOND),
        CFGZeroStar(5.0, 2, space)(Counting(), X, SIGMA, COND, UNCOND),
    )
    assert denoise.rows == [6]


def test_a_zeroed_step_of_a_flow_leaves_the_state_in_t_as_it_is() -> None:
    """y = x / (1 + sigma) stands still where the velocity is 0."""
    sampler = EulerEDMSampler(EDMDiscretization(), 4, CFGZeroStar(3.0, zero_init_steps=3))
    denoise, seen = Counting(), []

    def watched(x: torch.Tensor, sigma: torch.Tensor, cond: Any) -> torch.Tensor:
        seen.append(x[:3] / (1 + sigma[0]))
        return denoise(x, sigma, cond)

    sampler(watched, X, COND, UNCOND)
    [y] = seen
    first = sampler.schedule()[0].item()
    torch.testing.assert_close(y, X * math.hypot(1, first) / (1 + first), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("space", ["x0", "v", "flow"])
def test_at_infinity_the_zero_is_finite(space: Space) -> None:
    guider = CFGZeroStar(5.0, space=space).for_schedule([math.inf, 2.0, 0.0])
    D = guider.at(math.inf)(Counting(), X, INFINITE, COND, UNCOND)
    assert torch.equal(D, X if space == "flow" else torch.zeros_like(X))


def test_no_noise_where_all_is_noise_is_refused() -> None:
    with pytest.raises(ValueError, match=r"zero_init_steps is 1, but at sigma = inf.* take another space"):
        CFGZeroStar(5.0, space="eps").for_schedule([math.inf, 2.0, 0.0])
    CFGZeroStar(5.0, 0, space="eps").for_schedule([math.inf, 2.0, 0.0])


def test_scale_one_is_no_guidance_and_no_zero() -> None:
    denoise, guider = Counting(), CFGZeroStar(1.0).for_schedule(LEVELS)
    assert torch.equal(guider.at(80.0)(denoise, X, SIGMA, COND, UNCOND), D_C)
    assert denoise.rows == [3]


def test_it_keeps_the_promises_of_its_role() -> None:
    for space in SPACES:
        check_component("guiders", "cfg_zero_star", scale=3.0, space=space)
