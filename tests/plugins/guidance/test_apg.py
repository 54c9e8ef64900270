from __future__ import annotations

from typing import Any

import pytest
import torch
from support.guided import COND, D_C, D_U, ESTIMATES, INFINITE, PREDICTIONS, SIGMA, SPACES, UNCOND, Counting, S, X

from sgm_core.testing import check_component
from sgm_plugins.guidance.apg import AdaptiveProjectedGuidance
from sgm_plugins.guidance.space import Space
from sgm_plugins.guiders import ClassifierFreeGuidance, GuidanceInterval

STATES = [X, X.flip(0), X + 1]
"""Of three evaluations of one sample."""


def guided(guider: Any, x: torch.Tensor = X) -> torch.Tensor:
    out: torch.Tensor = guider(Counting(), x, SIGMA, COND, UNCOND)
    return out


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize(
    "parameters",
    [
        {"eta": 0.0, "norm_threshold": 15.0, "momentum": -0.5},
        {"eta": 0.3, "norm_threshold": 1.5, "momentum": 0.8},
        {"eta": 1.0, "norm_threshold": 0.0, "momentum": 0.0},
    ],
)
def test_a_sample_is_that_of_diffusers_in_the_form_of_the_paper(space: Space, parameters: dict[str, float]) -> None:
    theirs = pytest.importorskip("diffusers.guiders.adaptive_projected_guidance")
    guider = AdaptiveProjectedGuidance(5.0, space=space, **parameters).for_schedule([40.0, 2.0, 0.3, 0.0])
    buffer = theirs.MomentumBuffer(parameters["momentum"])
    for x in STATES:
        p_u, p_c = (PREDICTIONS[space](x, S, Counting()(x, SIGMA, cond)) for cond in (UNCOND, COND))
        eta, threshold = parameters["eta"], parameters["norm_threshold"]
        p = theirs.normalized_guidance(p_c, p_u, 4.0, buffer, eta, threshold, use_original_formulation=True)
        torch.testing.assert_close(guided(guider.at(2.0), x), ESTIMATES[space](x, S, p), rtol=1e-11, atol=1e-11)


def test_without_its_three_changes_it_is_classifier_free_guidance() -> None:
    for space in SPACES:
        guider = AdaptiveProjectedGuidance(5.0, 1.0, 0.0, 0.0, space)  # type: ignore[arg-type]
        torch.testing.assert_close(guided(guider), torch.lerp(D_U, D_C, 5.0))


def test_the_update_is_orthogonal_and_no_longer_than_the_threshold() -> None:
    update = guided(AdaptiveProjectedGuidance(2.0, norm_threshold=0.5)) - D_C
    assert (update * D_C).sum(dim=(1, 2, 3)).abs().max() < 1e-12
    whole = guided(AdaptiveProjectedGuidance(2.0, eta=1.0, norm_threshold=0.5)) - D_C
    torch.testing.assert_close(whole.flatten(1).norm(dim=1), torch.full((3,), 0.5, dtype=torch.float64))


def test_momentum_is_of_one_sample() -> None:
    shared = AdaptiveProjectedGuidance(5.0)
    one, other = shared.for_schedule([2.0, 0.0]), shared.for_schedule([2.0, 0.0])
    first = guided(one)
    second = guided(one)
    assert not torch.allclose(first, second)
    assert torch.equal(guided(other), first), "a sample between does not see it"
    assert torch.equal(guided(shared), first)
    assert torch.equal(guided(shared), first), "itself, it remembers nothing"
    assert torch.equal(guided(one.for_schedule([2.0, 0.0])), first)
    inside = GuidanceInterval(shared).for_schedule([2.0, 0.0])
    assert torch.equal(guided(inside.at(2.0)), first)
    assert torch.equal(guided(inside.at(2.0)), second)


@pytest.mark.parametrize("space", SPACES)
def test_at_infinity_it_is_the_limit_and_the_next_step_is_finite(space: Space) -> None:
    large = 1e8

    def scaled(x: torch.Tensor, sigma: torch.Tensor, cond: Any) -> torch.Tensor:
        return Counting()(x / large, INFINITE, cond)

    guiders = [AdaptiveProjectedGuidance(5.0, 0.3, 2.0, -0.5, space, batched=False).for_schedule([1, 0]) for _ in "ab"]
    there = guiders[0](Counting(), X, INFINITE, COND, UNCOND)
    near = guiders[1](scaled, X * large, torch.full_like(SIGMA, large), COND, UNCOND)
    torch.testing.assert_close(there, near, rtol=0, atol=1e-4)
    torch.testing.assert_close(guided(guiders[0]), guided(guiders[1]), rtol=0, atol=1e-4)


def test_what_a_sample_learns_of_the_memory_holds_for_the_next() -> None:
    class Small(Counting):
        def __call__(self, x: torch.Tensor, sigma: torch.Tensor, cond: Any) -> torch.Tensor:
            if len(x) > 3:
                raise torch.OutOfMemoryError
            return super().__call__(x, sigma, cond)

    shared = AdaptiveProjectedGuidance(5.0)
    with pytest.warns(UserWarning, match="memory does not hold both halves"):
        shared.for_schedule([1.0, 0.0])(Small(), X, SIGMA, COND, UNCOND)
    assert shared.for_schedule([1.0, 0.0]).batched is False  # type: ignore[attr-defined]


def test_scale_one_is_one_call() -> None:
    denoise = Counting()
    assert torch.equal(AdaptiveProjectedGuidance(1.0)(denoise, X, SIGMA, COND, UNCOND), D_C)
    assert denoise.rows == [3]
    assert guided(ClassifierFreeGuidance(1.0)).equal(D_C)


def test_it_keeps_the_promises_of_its_role() -> None:
    for space in SPACES:
        check_component("guiders", "apg", scale=3.0, space=space)
