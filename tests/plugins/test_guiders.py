from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sgm_core.conditioning import Conditioning
from sgm_plugins.guiders import ClassifierFreeGuidance, IdentityGuider

X, SIGMA = torch.randn(2, 1, 3, 3), torch.tensor([1.0, 2.0])
COND, UNCOND = Conditioning(vector=torch.ones(2, 1)), Conditioning(vector=torch.zeros(2, 1))


class Shift:
    """D = sigma * x + vector, remembering each call."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Tensor, Conditioning]] = []

    def __call__(self, x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        self.calls.append((x, sigma, cond))
        assert cond.vector is not None
        return sigma[:, None, None, None] * x + cond.vector[:, :, None, None]


def test_identity_is_the_conditional_estimate() -> None:
    denoise = Shift()
    assert torch.equal(IdentityGuider()(denoise, X, SIGMA, COND, UNCOND), Shift()(X, SIGMA, COND))
    assert len(denoise.calls) == 1


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0, -1.0])
def test_guidance_extrapolates_from_the_unconditional_estimate(scale: float) -> None:
    guided = ClassifierFreeGuidance(scale)(Shift(), X, SIGMA, COND, UNCOND)
    u, c = Shift()(X, SIGMA, UNCOND), Shift()(X, SIGMA, COND)
    torch.testing.assert_close(guided, (1 - scale) * u + scale * c)


def test_both_halves_run_in_one_batch_unconditional_first() -> None:
    denoise = Shift()
    ClassifierFreeGuidance(2.0)(denoise, X, SIGMA, COND, UNCOND)
    [(x, sigma, cond)] = denoise.calls
    assert torch.equal(x, torch.cat([X, X]))
    assert sigma.tolist() == [1.0, 2.0, 1.0, 2.0]
    assert cond.vector is not None
    assert cond.vector.flatten().tolist() == [0.0, 0.0, 1.0, 1.0]


def test_scale_one_does_not_compute_the_half_that_does_not_count() -> None:
    denoise = Shift()
    ClassifierFreeGuidance(1.0)(denoise, X, SIGMA, COND, UNCOND)
    assert [len(x) for x, _, _ in denoise.calls] == [2]


def test_extra_tensors_are_doubled_too_and_plain_values_kept() -> None:
    denoise, extra = Shift(), torch.arange(2.0)
    ClassifierFreeGuidance(2.0)(
        denoise, X, SIGMA, COND.with_extras(extra=extra, frames=3), UNCOND.with_extras(extra=-extra, frames=3)
    )
    extras = denoise.calls[0][2].extras
    assert extras["extra"].tolist() == [0.0, -1.0, 0.0, 1.0]
    assert extras["frames"] == 3


def test_conditionings_that_do_not_match_are_an_error_that_names_the_entry() -> None:
    with pytest.raises(ValueError, match="frames"):
        ClassifierFreeGuidance(2.0)(Shift(), X, SIGMA, COND.with_extras(frames=3), UNCOND)
