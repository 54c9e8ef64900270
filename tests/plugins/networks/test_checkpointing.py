import pytest
import torch
from torch import nn

from sgm_plugins.networks.checkpointing import checkpointed


@pytest.mark.parametrize(("enabled", "grad", "runs"), [(True, True, 2), (False, True, 1), (True, False, 1)])
def test_runs_again_in_the_backward_pass_only_when_enabled_and_needed(enabled, grad, runs):
    """B35: the reference's AttentionBlock always did."""
    layer, calls = nn.Linear(2, 2), []
    layer.register_forward_pre_hook(lambda *_: calls.append(1))
    with torch.set_grad_enabled(grad):
        y = checkpointed(enabled, layer, torch.ones(1, 2))
    if grad:
        y.sum().backward()
    assert len(calls) == runs


def test_gradients_reach_parameters_when_no_input_needs_one():
    """B30: with reentrant checkpointing they vanished without a word."""
    layer = nn.Linear(2, 1, bias=False)
    checkpointed(True, layer, torch.tensor([[3.0, 5.0]])).backward()
    assert layer.weight.grad.tolist() == [[3.0, 5.0]]


def test_dropout_draws_the_same_mask_again():
    """B30: the reference's did not put the random state back."""
    x = torch.ones(1000, requires_grad=True)
    y = checkpointed(True, nn.Dropout(0.5), x)
    torch.rand(7)  # something else draws in between
    y.sum().backward()
    assert torch.equal(y, x.grad)
