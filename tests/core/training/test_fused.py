"""The kernels of an optimizer step: chosen where a config leaves it open, and only there."""

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, NAdam

from sgm_core.training.fused import fuse


def weights(*dtypes: torch.dtype) -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(5, 7).to(dtype)) for dtype in dtypes or (torch.float32,)]


def fused(optimizer: torch.optim.Optimizer) -> list[bool | None]:
    fuse(optimizer)
    return [group.get("fused") for group in optimizer.param_groups]


@pytest.mark.parametrize("make", [Adam, AdamW])
def test_a_step_is_what_it_was_but_for_rounding(make):
    results = []
    for fast in (False, True):
        parameters = weights(torch.float32, torch.float64)
        optimizer = make(parameters, lr=0.1, weight_decay=0.1)
        if fast:
            assert fused(optimizer) == [True]
        for step in range(5):
            for parameter in parameters:
                parameter.grad = torch.cos(parameter.detach() * (step + 1))
            optimizer.step()
        results.append(parameters)
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_what_the_config_says_holds():
    assert fused(AdamW(weights(), fused=False)) == [False]
    assert fused(AdamW(weights(), foreach=True)) == [None]
    assert fused(AdamW(weights(), foreach=False)) == [None]
    assert fused(AdamW(weights(), differentiable=True)) == [None]
    groups = [{"params": weights()}, {"params": weights(), "foreach": True}]
    assert fused(AdamW(groups)) == [True, None]


def test_optimizers_and_parameters_without_such_kernels_are_left_alone():
    class Own(AdamW):
        pass

    assert fused(SGD(weights(), lr=0.1)) == [None]
    assert fused(Own(weights())) == [None]
    assert fused(NAdam(weights())) == [None]
    assert fused(AdamW(weights(torch.complex64))) == [None]
    assert fused(AdamW([nn.Parameter(torch.zeros(3, device="meta"))])) == [None]


def test_gradients_may_still_be_clipped_where_a_scaler_multiplies_them():
    """Lightning refuses that for an optimizer that says of itself that it divides by the scale."""
    optimizer = AdamW(weights())
    fuse(optimizer)
    assert not getattr(optimizer, "_step_supports_amp_scaling", False)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    [parameter] = optimizer.param_groups[0]["params"]
    before, expected = parameter.detach().clone(), weights()
    plain = AdamW(expected)
    scaler.scale(parameter.square().sum()).backward()
    scaler.step(optimizer)
    expected[0].square().sum().backward()
    plain.step()
    torch.testing.assert_close(parameter, expected[0])
    assert not torch.equal(parameter, before)


def test_a_run_of_before_goes_on_as_it_was():
    """Its checkpoint says that nothing was chosen."""
    old = AdamW(weights())
    new = AdamW(weights())
    fuse(new)
    new.load_state_dict(old.state_dict())
    assert new.param_groups[0]["fused"] is None
