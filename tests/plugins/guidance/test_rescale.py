from __future__ import annotations

import pytest
import torch
from support.guided import COND, D_C, D_U, ESTIMATES, INFINITE, PREDICTIONS, SIGMA, SPACES, UNCOND, Counting, S, X

from sgm_core.testing import check_component
from sgm_plugins.guidance.rescale import RescaledGuidance
from sgm_plugins.guidance.space import Space
from sgm_plugins.guiders import ClassifierFreeGuidance, GuidanceInterval, IdentityGuider

CFG = ClassifierFreeGuidance(5.0)


@pytest.mark.parametrize("phi", [0.3, 1.0])
@pytest.mark.parametrize("space", SPACES)
def test_it_is_the_rescaling_of_diffusers_on_the_prediction(space: Space, phi: float) -> None:
    guiders = pytest.importorskip("diffusers.guiders.guider_utils")
    p_u, p_c = (PREDICTIONS[space](X, S, D) for D in (D_U, D_C))
    expected = ESTIMATES[space](X, S, guiders.rescale_noise_cfg(p_u + 5 * (p_c - p_u), p_c, phi))
    denoise = Counting()
    found = RescaledGuidance(CFG, phi, space)(denoise, X, SIGMA, COND, UNCOND)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    assert denoise.rows == [6], "the conditional estimate is that of the inner guider"


@pytest.mark.parametrize("space", SPACES)
def test_all_of_it_gives_the_deviation_of_the_conditional_prediction(space: Space) -> None:
    found = RescaledGuidance(CFG, 1.0, space)(Counting(), X, SIGMA, COND, UNCOND)
    stds = [PREDICTIONS[space](X, S, D).std(dim=(1, 2, 3)) for D in (found, D_C)]
    torch.testing.assert_close(*stds)


@pytest.mark.parametrize("space", SPACES)
def test_at_infinity_it_is_the_limit(space: Space) -> None:
    """A D that looks at the scaled state, as networks do, at a large level."""
    large = 1e8

    def scaled(x: torch.Tensor, sigma: torch.Tensor, cond: object) -> torch.Tensor:
        return Counting()(x / large, INFINITE[: len(x)].repeat(2)[: len(x)], cond)  # type: ignore[arg-type]

    guider = RescaledGuidance(ClassifierFreeGuidance(5.0, batched=False), 0.7, space)
    there = guider(Counting(), X, INFINITE, COND, UNCOND)
    near = guider(scaled, X * large, torch.full_like(SIGMA, large), COND, UNCOND)
    torch.testing.assert_close(there, near, rtol=0, atol=1e-4)
    assert there.isfinite().all()


def test_none_of_it_is_the_inner_guider_and_no_guidance_is_one_call() -> None:
    torch.testing.assert_close(
        RescaledGuidance(CFG, 0.0)(Counting(), X, SIGMA, COND, UNCOND), CFG(Counting(), X, SIGMA, COND, UNCOND)
    )
    for inner in (ClassifierFreeGuidance(1.0), IdentityGuider()):
        denoise = Counting()
        assert torch.equal(RescaledGuidance(inner)(denoise, X, SIGMA, COND, UNCOND), D_C)
        assert denoise.rows == [3]


def test_a_prediction_without_deviation_stays_as_it_is() -> None:
    """One value, whose deviation is 0, cannot be scaled to another one."""
    x, sigma = X[:, :1, :1, :1], SIGMA
    found = RescaledGuidance(CFG, 0.7, "x0")(lambda x, s, c: c.vector[:, :1, None, None], x, sigma, COND, UNCOND)  # type: ignore[index]
    assert found.isfinite().all()


def test_it_asks_the_inner_guider_for_each_level() -> None:
    guider = RescaledGuidance(GuidanceInterval(CFG, 0.1, 3.0)).for_schedule([40.0, 2.0, 0.0])
    assert isinstance(guider.at(40.0), IdentityGuider)
    found = guider.at(2.0)(Counting(), X, SIGMA, COND, UNCOND)
    torch.testing.assert_close(found, RescaledGuidance(CFG)(Counting(), X, SIGMA, COND, UNCOND))


def test_it_keeps_the_promises_of_its_role() -> None:
    for space in SPACES:
        check_component("guiders", "rescale", guider={"use": "cfg", "scale": 3.0}, space=space)
