from typing import get_type_hints

import pytest
import torch
from omegaconf import OmegaConf
from support.networks import randomized

from sgm_core import build as build_component
from sgm_plugins.networks.group_norm import GroupNorm
from sgm_plugins.networks.resblock import ResBlock
from sgm_plugins.networks.spatial_transformer import SpatialTransformer
from sgm_plugins.networks.unet import UNet

SMALL = {
    "in_channels": 2,
    "model_channels": 32,
    "out_channels": 3,
    "num_res_blocks": 1,
    "attention_resolutions": [2],
    "channel_mult": [1, 2],
    "num_heads": 2,
}
CONTEXT = {"context_dim": 10}
VECTOR = {"num_classes": "sequential", "adm_in_channels": 6}


def build(**options):
    return randomized(UNet(**{**SMALL, **options}))


def inputs(network, size=8, batch=2):
    def draw(*shape):
        return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))

    kwargs = {}
    if network.context_dim is not None:
        kwargs["context"] = draw(batch, 4, network.context_dim)
    if network.label_emb is not None:
        kwargs["y"] = draw(batch, 6)
    return (draw(batch, 2, *[size] * network.dims), 5 * draw(batch).abs()), kwargs


def run(network, **overrides):
    args, kwargs = inputs(network)
    with torch.no_grad():
        return network(*args, **{**kwargs, **overrides})


def test_samples_of_a_batch_do_not_see_each_other():
    network = build(**CONTEXT, **VECTOR)
    (x, t), kwargs = inputs(network)
    with torch.no_grad():
        alone = network(x[:1], t[:1], **{key: value[:1] for key, value in kwargs.items()})
        torch.testing.assert_close(network(x, t, **kwargs)[:1], alone, atol=1e-5, rtol=1e-5)


def test_every_parameter_gets_a_gradient():
    network = build(**CONTEXT, **VECTOR, use_scale_shift_norm=True)
    args, kwargs = inputs(network)
    network(*args, **kwargs).square().sum().backward()
    assert [key for key, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_demo_configuration_builds_with_no_heads_given_and_one_in_the_middle():
    network = UNet(1, 32, 1, 2, [], channel_mult=[1, 2], num_classes="sequential", adm_in_channels=128)
    attention = [module for module in network.modules() if isinstance(module, SpatialTransformer)]
    assert [module.transformer_blocks[0].attn1.num_heads for module in attention] == [1]


def test_norms_of_transformers_have_a_smaller_epsilon():
    """The goldens cannot tell: it moves outputs by less than their tolerance."""
    norms = {key: module.eps for key, module in build().named_modules() if isinstance(module, GroupNorm)}
    assert {key.endswith(".1.norm") for key in norms} == {True, False}
    assert all(eps == (1e-6 if key.endswith(".1.norm") else 1e-5) for key, eps in norms.items())


def test_hints_of_the_constructor_resolve():
    hints = get_type_hints(UNet.__init__)
    assert hints["channel_mult"] == list[int]
    assert hints["num_res_blocks"] == int | list[int]


# options: each one's effect

SAME_WEIGHTS = {
    "num_heads": {"num_heads": 4},
    "num_head_channels": {"num_head_channels": 8},
    "num_heads_upsample": {"num_heads_upsample": 4},
}


@pytest.mark.parametrize("options", SAME_WEIGHTS.values(), ids=SAME_WEIGHTS)
def test_options_without_weights_change_the_output(options):
    base, other = build(), build(**options)
    other.load_state_dict(base.state_dict())
    assert not torch.allclose(run(base), run(other), atol=1e-4)


def test_the_width_of_a_head_wins_over_their_number():
    assert torch.equal(run(build(num_head_channels=8)), run(build(num_head_channels=8, num_heads=16)))


def test_num_heads_upsample_is_for_the_way_up():
    network = build(num_heads_upsample=8, disable_middle_transformer=True)
    heads = {key: module.num_heads for key, module in network.named_modules() if key.endswith("attn1")}
    assert {key.split("_")[0]: n for key, n in heads.items()} == {"input": 2, "output": 8}


STRUCTURE = {
    "num_res_blocks": {"num_res_blocks": [2, 1]},
    "attention_resolutions": {"attention_resolutions": [1, 2]},
    "channel_mult": {"channel_mult": [1, 1]},
    "conv_resample": {"conv_resample": False},
    "dims": {"dims": 1},
    "num_classes": VECTOR,
    "use_scale_shift_norm": {"use_scale_shift_norm": True},
    "resblock_updown": {"resblock_updown": True},
    "transformer_depth": {"transformer_depth": [1, 2]},
    "context_dim": CONTEXT,
    "disable_self_attentions": {**CONTEXT, "disable_self_attentions": [False, True]},
    "num_attention_blocks": {"num_attention_blocks": [0, 1]},
    "disable_middle_self_attn": {**CONTEXT, "disable_middle_self_attn": True},
    "disable_middle_transformer": {"disable_middle_transformer": True},
    "use_linear_in_transformer": {"use_linear_in_transformer": True},
}


@pytest.mark.parametrize("name", STRUCTURE)
def test_structural_options_change_the_weights_and_run(name):
    options = STRUCTURE[name]
    without = {key: value for key, value in options.items() if key in CONTEXT and name != "context_dim"}
    base, network = UNet(**{**SMALL, **without}), build(**options)

    def shapes(network):
        return {key: value.shape for key, value in network.state_dict().items()}

    assert shapes(network) != shapes(base)
    output = run(network)
    assert output.shape == (2, 3, *[8] * network.dims)
    assert output.isfinite().all()


def test_a_list_with_one_number_per_level_is_that_number():
    lists = {"num_res_blocks": [1, 1], "transformer_depth": [2, 2], "context_dim": [10, 10]}
    tuples = {key: tuple(value) for key, value in lists.items()} | {"channel_mult": (1, 2)}
    numbers = build(num_res_blocks=1, transformer_depth=2, context_dim=10)
    assert torch.equal(run(build(**lists)), run(numbers))
    assert torch.equal(run(build(**tuples)), run(numbers))


def test_a_config_may_repeat_the_width_of_the_context():
    """B31: as sd_xl_refiner.yaml does, which the reference cannot build: an OmegaConf list reached a layer."""
    spec = OmegaConf.create({"use": "unet", **SMALL, "context_dim": [10, 10], "transformer_depth": [1, 1]})
    for given in (spec, {**SMALL, "use": "unet", "context_dim": spec.context_dim}):
        network = build_component("networks", given)
        assert network.context_dim == 10
        assert run(network).shape == (2, 3, 8, 8)


def test_arguments_given_as_lists_are_left_alone():
    options = {"channel_mult": [1, 2], "num_res_blocks": [1, 1], "attention_resolutions": [2], "context_dim": [4, 4]}
    before = {key: list(value) for key, value in options.items()}
    UNet(**{**SMALL, **options})
    assert options == before


def test_num_attention_blocks_counts_the_transformers_of_each_level():
    network = build(num_res_blocks=2, attention_resolutions=[1, 2], num_attention_blocks=[2, 1])
    found = [key for key, module in network.named_modules() if isinstance(module, SpatialTransformer)]
    down = [f"input_blocks.{i}.1" for i in (1, 2, 4)]
    up = [f"output_blocks.{i}.1" for i in (0, 3, 4)]
    assert found == [*down, "middle_block.1", *up]


def test_disabled_self_attention_is_attention_to_the_context():
    network = build(attention_resolutions=[1, 2], context_dim=10, disable_self_attentions=[False, True])
    widths = {key: module.attn1.to_k.in_features for key, module in network.named_modules() if hasattr(module, "attn1")}
    assert {key.rsplit(".transformer_blocks", 1)[0]: width for key, width in widths.items()} == {
        "input_blocks.1.1": 32,
        "input_blocks.3.1": 10,
        "middle_block.1": 64,
        "output_blocks.0.1": 10,
        "output_blocks.1.1": 10,
        "output_blocks.2.1": 32,
        "output_blocks.3.1": 32,
    }


def test_dropout_acts_in_training_only():
    network = build(dropout=0.5)
    assert torch.equal(run(network), run(network))
    network.train()
    assert not torch.equal(run(network), run(network))


def test_three_axes_keep_the_number_of_frames():
    network = build(dims=3)
    (x, t), _ = inputs(network)
    with torch.no_grad():
        assert network(x[:, :, :3], t).shape == (2, 3, 3, 8, 8)


# y


@pytest.mark.parametrize(
    ("num_classes", "y"),
    [(7, torch.tensor([2, 5])), ("continuous", torch.tensor([0.1, 0.7])), ("timestep", torch.tensor([10.0, 500.0]))],
)
def test_one_number_per_sample_may_stand_in_a_column(num_classes, y):
    network = build(num_classes=num_classes)
    output = run(network, y=y)
    assert torch.equal(output, run(network, y=y[:, None]))
    assert not torch.allclose(output, run(network, y=y.flip(0)), atol=1e-3)


@pytest.mark.parametrize(
    ("num_classes", "y", "message"),
    [
        (7, torch.tensor([0.5, 1.0]), "integer"),
        (7, torch.zeros(2, 3, dtype=torch.long), r"\(2, 3\).*one number per sample"),
        ("continuous", torch.zeros(2, 3), r"\(2, 3\).*one number per sample"),
        ("timestep", torch.zeros(2, 3), r"\(2, 3\).*one number per sample"),
    ],
)
def test_a_y_that_the_network_can_not_embed_is_named(num_classes, y, message):
    with pytest.raises(ValueError, match=message):
        run(build(num_classes=num_classes), y=y)


# checkpointing


def loss_and_gradients(network, seed=0):
    args, kwargs = inputs(network)
    network.train()
    torch.manual_seed(seed)
    loss = network(*args, **kwargs).square().mean()
    loss.backward()
    return loss.detach(), {key: p.grad for key, p in network.named_parameters() if p.requires_grad}


def test_checkpointing_recomputes_each_block():
    network, calls = build(use_checkpoint=True), []
    for module in network.modules():
        if isinstance(module, ResBlock):
            module.in_layers.register_forward_pre_hook(lambda *_: calls.append(1))
    blocks = sum(isinstance(module, ResBlock) for module in network.modules())
    loss_and_gradients(network)
    assert len(calls) == 2 * blocks


# sizes


@pytest.mark.parametrize("options", [{}, {"conv_resample": False}, {"resblock_updown": True}])
@pytest.mark.parametrize("size", [(7, 8), (8, 7), (5, 3), (2, 5)])
def test_odd_sizes_work(options, size):
    network = build(channel_mult=[1, 1, 1], **options)
    x = torch.randn(1, 2, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output = network(x, torch.ones(1))
    assert output.shape == (1, 3, *size)
    assert output.isfinite().all()


# errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_channels": 48}, r"model_channels 48.*\[48, 96\].*multiple of 32"),
        ({"channel_mult": []}, r"channel_mult \[\]"),
        ({"channel_mult": [1, 0]}, r"\[32, 0\]"),
        ({"num_res_blocks": [1]}, r"num_res_blocks is \[1\].*2 levels"),
        ({"num_res_blocks": 0}, "num_res_blocks is 0; each is at least 1"),
        ({"transformer_depth": [1, 2, 3]}, r"transformer_depth is \[1, 2, 3\].*2 levels"),
        ({"attention_resolutions": [16, 8]}, r"\[16, 8\].*factors \[1, 2\]"),
        ({"dims": 4}, "dims is 4"),
        ({"num_heads": -1}, r"attention_resolutions is \[2\].*both unset"),
        ({"num_heads": 0}, "num_heads 0"),
        ({"num_heads": 3}, "num_heads 3 does not divide a level's 64 channels"),
        ({"num_head_channels": 24}, "num_head_channels 24 does not divide a level's 64 channels"),
        ({"num_heads_upsample": 5}, "num_heads 5 does not divide"),
        ({"context_dim": [10, 12]}, r"context_dim is \[10, 12\]"),
        ({"context_dim": 10, "disable_self_attentions": [True]}, r"disable_self_attentions is \[True\].*2 levels"),
        ({"context_dim": 10, "disable_self_attentions": True}, "disable_self_attentions is True.*2 levels"),
        ({"disable_self_attentions": [False, True]}, "context_dim is None"),
        ({"disable_middle_self_attn": True}, "context_dim is None"),
        ({"num_attention_blocks": [1]}, r"num_attention_blocks is \[1\].*2 levels"),
        ({"num_attention_blocks": [0, 2]}, r"num_attention_blocks \[0, 2\] exceeds num_res_blocks \[1, 1\]"),
        ({"num_classes": "sequential"}, "adm_in_channels is None"),
        ({"num_classes": 10, "adm_in_channels": 6}, "num_classes is 10 and adm_in_channels is 6"),
        ({"adm_in_channels": 6}, "adm_in_channels is 6"),
        ({"num_classes": "sequentia"}, "'sequentia'.*'sequential'"),
        ({"num_classes": 0}, "num_classes is 0"),
    ],
)
def test_arguments_that_do_not_fit_are_named_with_their_numbers(options, message):
    with pytest.raises(ValueError, match=message):
        UNet(**{**SMALL, **options})


@pytest.mark.parametrize(
    ("options", "given", "message"),
    [
        (CONTEXT, {"context": None}, r"context is missing.*\(b, tokens, 10\)"),
        (CONTEXT, {"context": torch.zeros(2, 4, 12)}, r"\(2, 4, 12\).*\(2, tokens, 10\)"),
        (CONTEXT, {"context": torch.zeros(2, 10)}, r"\(2, 10\).*\(2, tokens, 10\)"),
        ({}, {"context": torch.zeros(2, 4, 10)}, "attends to none: set context_dim"),
        (
            {**CONTEXT, "attention_resolutions": [], "disable_middle_transformer": True},
            {},
            "attends to none",
        ),
        (VECTOR, {"y": None}, "y is missing"),
        (VECTOR, {"y": torch.zeros(2, 7)}, r"\(2, 7\).*\(b, 6\): change adm_in_channels"),
        (VECTOR, {"y": torch.zeros(3, 6)}, r"\(3, 6\) for a batch of 2"),
        ({}, {"y": torch.zeros(2, 6)}, "set num_classes"),
        ({}, {"x": torch.zeros(2, 3, 8, 8)}, r"\(2, 3, 8, 8\).*\(b, 2\)"),
        ({}, {"x": torch.zeros(2, 2, 8)}, "2 axes"),
        ({}, {"timesteps": torch.ones(1)}, r"\(1,\) for a batch of 2"),
    ],
)
def test_inputs_that_do_not_fit_are_named_with_what_would(options, given, message):
    network = UNet(**{**SMALL, **options})
    (x, timesteps), kwargs = inputs(network)
    with pytest.raises(ValueError, match=message):
        network(**{"x": x, "timesteps": timesteps, **kwargs, **given})
