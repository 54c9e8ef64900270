import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import sgm_core as sgm
from sgm_plugins.networks.checkpointing import checkpointed
from sgm_plugins.tools.dry_run.live_memory import LiveMemory


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


@pytest.mark.parametrize("attention", [[], [1]], ids=["residual", "transformers"])
def test_it_costs_at_most_one_more_forward_pass_and_the_peak_is_lower(attention):
    """Chen et al. 2016, section 3: forward and backward have the arithmetic of three forward passes; recomputing adds
    one at most, 4/3 in all. It is less, for what the last layer of a block gives is not needed again."""
    flops, peaks = [], []
    for enabled in (False, True):
        torch.manual_seed(0)
        network = sgm.build("networks", {
            "use": "unet", "in_channels": 1, "out_channels": 1, "model_channels": 32, "num_res_blocks": 4,
            "channel_mult": [1], "attention_resolutions": attention, "num_head_channels": 16,
            "disable_middle_transformer": True, "use_checkpoint": enabled,
        })  # fmt: skip
        x, timesteps = torch.randn(8, 1, 16, 16), torch.rand(8)
        with FlopCounterMode(display=False) as forward, torch.no_grad():
            network(x, timesteps=timesteps)
        with FlopCounterMode(display=False) as step:
            network(x, timesteps=timesteps).square().sum().backward()
        with LiveMemory(x.device, [*network.parameters(), *(p.grad for p in network.parameters())]) as memory:
            kept = memory.live
            network(x, timesteps=timesteps).square().sum().backward()
        flops.append((forward.get_total_flops(), step.get_total_flops()))
        peaks.append(memory.peak - kept)
    (once, plain), (_, recomputing) = flops
    assert plain == pytest.approx(3 * once, rel=0.05)
    assert 0.6 * once < recomputing - plain <= once
    assert 1.2 < recomputing / plain <= 4 / 3
    assert peaks[1] < 0.6 * peaks[0]
