import math

import pytest
import torch
from support.networks import draw, randomized

from sgm_plugins.networks.ddpm_blocks import AttnBlock, LinearAttnBlock
from sgm_plugins.networks.ddpm_unet import DDPMUNet, ddpm_timestep_embedding
from sgm_plugins.networks.group_norm import GroupNorm

SMALL = {
    "ch": 32,
    "out_ch": 3,
    "num_res_blocks": 1,
    "attn_resolutions": [4],
    "in_channels": 2,
    "resolution": 8,
    "ch_mult": [1, 2],
}


def build(**options):
    return randomized(DDPMUNet(**{**SMALL, **options}))


def run(network, x=None, t=None):
    with torch.no_grad():
        return network(draw(2, 2, 8, 8) if x is None else x, 5 * draw(2).abs() if t is None else t)


def modules_of(network, kind):
    return [key for key, module in network.named_modules() if isinstance(module, kind)]


def test_parameters_have_the_names_of_latent_diffusion():
    residual = {
        f"{part}.{kind}" for part in ("norm1", "conv1", "temb_proj", "norm2", "conv2") for kind in ("weight", "bias")
    }
    attention = {f"{part}.{kind}" for part in ("norm", "q", "k", "v", "proj_out") for kind in ("weight", "bias")}
    shortcut = {"nin_shortcut.weight", "nin_shortcut.bias"}
    blocks = {
        "down.0.block.0": residual,
        "down.1.block.0": residual | shortcut,
        "down.1.attn.0": attention,
        "mid.block_1": residual,
        "mid.attn_1": attention,
        "mid.block_2": residual,
        "up.1.block.0": residual | shortcut,
        "up.1.block.1": residual | shortcut,
        "up.1.attn.0": attention,
        "up.1.attn.1": attention,
        "up.0.block.0": residual | shortcut,
        "up.0.block.1": residual | shortcut,
    }
    plain = (
        "temb.dense.0",
        "temb.dense.1",
        "conv_in",
        "down.0.downsample.conv",
        "up.1.upsample.conv",
        "norm_out",
        "conv_out",
    )
    expected = {f"{block}.{key}" for block, keys in blocks.items() for key in keys}
    expected |= {f"{layer}.{kind}" for layer in plain for kind in ("weight", "bias")}
    assert set(DDPMUNet(**SMALL).state_dict()) == expected


def test_a_network_of_one_level_is_its_blocks_in_a_row():
    network = build(ch_mult=[1], attn_resolutions=[8])
    x, t = draw(2, 2, 8, 8), 5 * draw(2).abs()
    temb = network.temb(t)
    stem = network.conv_in(x)
    down = network.down[0].attn[0](network.down[0].block[0](stem, temb))
    h = network.mid.block_2(network.mid.attn_1(network.mid.block_1(down, temb)), temb)
    for block, attention, skip in zip(network.up[0].block, network.up[0].attn, (down, stem), strict=True):
        h = attention(block(torch.cat([h, skip], dim=1), temb))
    expected = network.conv_out(torch.nn.functional.silu(network.norm_out(h)))
    torch.testing.assert_close(run(network, x, t), expected)


def test_samples_of_a_batch_do_not_see_each_other():
    network, x, t = build(), draw(2, 2, 8, 8), 5 * draw(2).abs()
    torch.testing.assert_close(run(network, x, t)[:1], run(network, x[:1], t[:1]), atol=1e-5, rtol=1e-5)


def test_attention_stands_at_the_sizes_asked_for_and_in_the_middle():
    levels = {"resolution": 32, "ch_mult": [1, 1, 1], "attn_resolutions": [32, 8]}
    assert modules_of(build(**levels), AttnBlock) == [
        "down.0.attn.0",
        "down.2.attn.0",
        "mid.attn_1",
        "up.0.attn.0",
        "up.0.attn.1",
        "up.2.attn.0",
        "up.2.attn.1",
    ]


def test_other_kinds_of_attention_can_be_chosen():
    assert len(modules_of(build(attn_type="linear"), LinearAttnBlock)) == 4
    assert modules_of(build(attn_type="none"), (AttnBlock, LinearAttnBlock)) == []
    assert run(build(attn_type="linear")).isfinite().all()
    assert run(build(attn_type="none")).isfinite().all()


def test_resampling_without_convolutions_has_no_weights_and_runs():
    network = build(resamp_with_conv=False)
    assert {key.split(".")[2] for key in network.state_dict() if key.startswith(("down.", "up."))} == {"block", "attn"}
    assert run(network).shape == (2, 3, 8, 8)


@pytest.mark.parametrize("resamp_with_conv", [False, True])
@pytest.mark.parametrize("size", [(9, 8), (5, 7), (4, 11)])
def test_odd_sizes_work_on_several_levels(size, resamp_with_conv):
    network = build(ch_mult=[1, 1, 1], resolution=16, resamp_with_conv=resamp_with_conv)
    output = run(network, draw(2, 2, *size))
    assert output.shape == (2, 3, *size)
    assert output.isfinite().all()


def test_norms_have_the_smaller_epsilon():
    assert {module.eps for module in build().modules() if isinstance(module, GroupNorm)} == {1e-6}


def test_dropout_acts_in_training_only():
    network = build(dropout=0.5)
    assert torch.equal(run(network), run(network))
    network.train()
    assert not torch.equal(run(network), run(network))


@pytest.mark.parametrize("dim", [32, 33])
def test_the_embedding_is_sines_then_cosines_down_to_one_in_ten_thousand(dim):
    t = [0.0, 1.0, 37.5]
    embedding = ddpm_timestep_embedding(torch.tensor(t), dim)
    frequencies = [10000 ** (-i / 15) for i in range(16)]
    expected = [[f(x * w) for f in (math.sin, math.cos) for w in frequencies] + [0.0] * (dim % 2) for x in t]
    torch.testing.assert_close(embedding, torch.tensor(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ch": 48}, r"ch 48.*\[48, 96\].*multiple of 32"),
        ({"ch_mult": []}, r"ch_mult \[\]"),
        ({"attn_resolutions": [2]}, r"attn_resolutions is \[2\]; for resolution 8 the levels have the sizes \[8, 4\]"),
        ({"attn_type": "vanilla-xformers"}, "attn_type is 'vanilla-xformers'"),
    ],
)
def test_arguments_that_do_not_fit_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        DDPMUNet(**{**SMALL, **options})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"context": torch.zeros(2, 3, 4)}, r"context is \(2, 3, 4\), but this network takes none.*'concat'"),
        ({"y": torch.zeros(2, 4)}, r"y is \(2, 4\), but this network takes none"),
        ({"x": torch.zeros(2, 2, 1, 8)}, "too small to be halved 1 times"),
    ],
)
def test_inputs_that_do_not_fit_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        build()(**{"x": draw(2, 2, 8, 8), "timesteps": torch.ones(2), **given})
