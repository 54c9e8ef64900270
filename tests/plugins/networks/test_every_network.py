"""What holds for every backbone, in its richest tiny form."""

import inspect
from typing import Any, NamedTuple

import pytest
import torch
from support.networks import draw, randomized

from sgm_core.testing import check_component
from sgm_plugins.networks.ddpm_unet import DDPMUNet
from sgm_plugins.networks.dit import DiT
from sgm_plugins.networks.mmdit import MMDiT
from sgm_plugins.networks.multiview_video_unet import MultiviewVideoUNet
from sgm_plugins.networks.unet import UNet
from sgm_plugins.networks.video_unet import VideoUNet

LATENT = {
    "in_channels": 2,
    "model_channels": 32,
    "out_channels": 3,
    "num_res_blocks": 1,
    "attention_resolutions": [2],
    "channel_mult": [1, 2],
    "num_head_channels": 16,
    "context_dim": 10,
    "num_classes": "sequential",
    "adm_in_channels": 6,
}
VIDEO = {**LATENT, "use_spatial_context": True, "merge_strategy": "learned_with_images"}


class Backbone(NamedTuple):
    make: type
    params: dict[str, Any]
    rows: int
    extras: dict[str, Any]
    adapter: str
    """A layer to which an adapter may be attached."""
    idle: tuple[str, ...] = ()
    """Parameters that files have, and that nothing is computed with."""
    patch: int = 1
    """The sides of a grid are multiples of it."""

    def build(self, **options):
        return randomized(self.make(**{**self.params, **options}))

    def inputs(self, *size):
        size = size or (8, 8)
        given = {"x": draw(self.rows, 2, *size), "timesteps": 5 * draw(self.rows).abs(), **self.extras}
        if "context_dim" in self.params:
            given |= {"context": draw(self.rows, 4, 10), "y": draw(self.rows, 6)}
        return given


BACKBONES = {
    "unet": Backbone(UNet, LATENT, 2, {}, "middle_block.1.transformer_blocks.0.attn2.to_k"),
    "video_unet": Backbone(
        VideoUNet,
        VIDEO,
        6,
        {"num_video_frames": 3, "image_only_indicator": torch.tensor([[0.0, 0, 0], [1, 1, 1]])},
        "middle_block.1.time_stack.0.attn1.to_k",
    ),
    "multiview_video_unet": Backbone(
        MultiviewVideoUNet,
        {**VIDEO, "separate_motion_merge_factor": True, "camera_dim": 5, "motion_context_dim": 7},
        6,
        {"num_video_frames": 3, "num_views": 2, "camera": draw(6, 5), "cond_motion": draw(6, 3, 7)},
        "middle_block.1.motion_stack.0.attn2.to_k",
    ),
    "ddpm_unet": Backbone(
        DDPMUNet,
        {
            "ch": 32,
            "out_ch": 3,
            "num_res_blocks": 1,
            "attn_resolutions": [4],
            "in_channels": 2,
            "resolution": 8,
            "ch_mult": [1, 2],
        },
        2,
        {},
        "mid.attn_1.k",
    ),
    "dit": Backbone(
        DiT,
        {
            "depth": 2,
            "dim": 16,
            "num_heads": 2,
            "in_channels": 2,
            "out_channels": 3,
            "input_size": 8,
            "num_classes": 0,
            "qk_norm": True,
            "rope": True,
            "swiglu": True,
            "rms_norm": True,
        },
        2,
        {},
        "blocks.1.attn.qkv",
        patch=2,
    ),
    "mmdit": Backbone(
        MMDiT,
        {
            "depth": 3,
            "dim": 16,
            "num_heads": 2,
            "in_channels": 2,
            "out_channels": 3,
            "context_dim": 10,
            "vector_dim": 6,
            "pos_embed_max_size": 24,
            "base_size": 8,
            "qk_norm": True,
            "dual_attention": 1,
        },
        2,
        {"context_2": draw(2, 3, 10)},
        "joint_blocks.1.context_block.attn.qkv",
        idle=("joint_blocks.2.context_block.attn.ln_q.weight",),  # of a text that ends there
        patch=2,
    ),
}

every = pytest.mark.parametrize("backbone", BACKBONES.values(), ids=BACKBONES)


def run(network, given):
    with torch.no_grad():
        return network(**given)


def gradients(network, given):
    network.train()
    torch.manual_seed(0)
    network(**given).square().mean().backward()
    return {key: p.grad for key, p in network.named_parameters() if p.requires_grad}


@every
def test_keeps_the_contract_of_networks(backbone):
    """B33: two of the reference's video blocks were a NameError, one a TypeError."""
    given = backbone.inputs()
    check_component("networks", backbone.make, inputs=given, **backbone.params)


@every
def test_the_output_is_zero_at_initialization(backbone):
    output = run(backbone.make(**backbone.params), backbone.inputs())
    assert output.shape == (backbone.rows, 3, 8, 8)
    assert not output.any()


@every
def test_every_input_matters_and_none_is_changed(backbone):
    network, given = backbone.build(), backbone.inputs()
    tensors = {key: value for key, value in given.items() if isinstance(value, torch.Tensor)}
    before = {key: value.clone() for key, value in tensors.items()}
    output = run(network, given)
    assert all(torch.equal(tensors[key], before[key]) for key in tensors)
    for key in tensors:
        other = {**given, key: 1 - given[key]}
        assert not torch.allclose(output, run(network, other), atol=1e-4), key


@every
def test_every_parameter_gets_a_gradient(backbone):
    found = gradients(backbone.build(), backbone.inputs())
    assert tuple(key for key, grad in found.items() if grad is None or not grad.any()) == backbone.idle


@every
def test_checkpointing_leaves_outputs_and_gradients_as_they_are_with_dropout(backbone):
    """B30, B32: other masks in the second pass, and arguments that were lost on the way."""
    given = backbone.inputs()
    dropout = {"dropout": 0.3} if "dropout" in inspect.signature(backbone.make).parameters else {}
    plain, recomputed = (
        gradients(backbone.build(**dropout, use_checkpoint=enabled), given) for enabled in (False, True)
    )
    assert plain.keys() == recomputed.keys()
    assert all(torch.equal(plain[key], recomputed[key]) for key in plain)


@every
def test_checkpointing_keeps_less_for_the_backward_pass(backbone):
    given, kept = backbone.inputs(), []
    for enabled in (False, True):
        elements = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, n=elements: n.append(t.numel()) or t, lambda t: t):
            backbone.build(use_checkpoint=enabled)(**given)
        kept.append(sum(elements))
    assert kept[1] < kept[0] / 2


@every
def test_gradients_reach_an_adapter_on_a_frozen_network_under_checkpointing(backbone):
    """B30: the reference's adapters never trained."""
    found = []
    for enabled in (False, True):
        network = backbone.build(use_checkpoint=enabled).requires_grad_(False)
        network.get_submodule(backbone.adapter).requires_grad_(True)
        found.append(gradients(network, backbone.inputs()))
    assert any(key.endswith("weight") and grad.any() for key, grad in found[1].items())
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


@every
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.01), (torch.bfloat16, 0.1)])
def test_half_precision_works_without_autocast(backbone, dtype, tolerance):
    """B31: the reference's timestep features stayed float32."""
    network, given = backbone.build(), backbone.inputs()
    exact = run(network, given)
    network.to(dtype)
    halves = {
        key: value.to(dtype) if isinstance(value, torch.Tensor) and key != "timesteps" else value
        for key, value in given.items()
    }
    half, mixed = run(network, halves), run(network, given)
    assert (half.dtype, mixed.dtype) == (dtype, torch.float32)
    for output in (half, mixed):
        assert (output - exact).abs().max() < tolerance * exact.abs().max()


@every
def test_autocast_gives_the_dtype_of_the_input(backbone):
    network, given = backbone.build(), backbone.inputs()
    exact = run(network, given)
    with torch.autocast("cpu", torch.bfloat16):
        output = run(network, given)
    assert output.dtype == torch.float32
    assert 0 < (output - exact).abs().max() < 0.1 * exact.abs().max()


@every
@pytest.mark.parametrize("size", [(7, 8), (8, 7), (5, 3), (2, 9)])
def test_odd_sizes_work(backbone, size):
    """B31: the reference ended at the first skip connection with a message about shapes."""
    size = [backbone.patch * side for side in size]
    output = run(backbone.build(), backbone.inputs(*size))
    assert output.shape == (backbone.rows, 3, *size)
    assert output.isfinite().all()


@every
def test_integer_timesteps_are_their_numbers(backbone):
    network, given = backbone.build(), backbone.inputs()
    whole = torch.arange(backbone.rows) * 100
    assert torch.equal(run(network, {**given, "timesteps": whole}), run(network, {**given, "timesteps": whole.float()}))


@every
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"x": torch.zeros(6, 5, 8, 8)}, r"x is \(6, 5, 8, 8\).*\(b, 2"),
        ({"x": torch.zeros(6, 2, 8)}, r"x is \(6, 2, 8\)"),
        ({"timesteps": torch.zeros(7)}, r"timesteps is \(7,\) for a batch"),
    ],
)
def test_inputs_that_do_not_fit_are_named(backbone, wrong, message):
    with pytest.raises(ValueError, match=message):
        run(backbone.build(), {**backbone.inputs(), **wrong})
