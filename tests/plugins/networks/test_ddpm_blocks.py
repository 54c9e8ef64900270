import pytest
import torch
from support.networks import draw, randomized
from torch.nn.functional import silu

from sgm_plugins.networks.ddpm_blocks import (
    AttnBlock,
    Downsample,
    LinearAttnBlock,
    ResnetBlock,
    attention_block,
)
from sgm_plugins.networks.group_norm import GroupNorm

X, TEMB = draw(2, 32, 4, 6), draw(2, 8)


@pytest.mark.parametrize("out", [32, 64])
@pytest.mark.parametrize("temb_channels", [None, 8])
def test_the_residual_block_is_the_formula_of_the_paper(out, temb_channels):
    block = randomized(ResnetBlock(32, out, temb_channels))
    h = block.conv1(silu(block.norm1(X)))
    if temb_channels is not None:
        h = h + block.temb_proj(silu(TEMB))[:, :, None, None]
    h = block.conv2(silu(block.norm2(h)))
    skip = X if out == 32 else torch.einsum("oc,bchw->bohw", block.nin_shortcut.weight[:, :, 0, 0], X)
    if out != 32:
        skip = skip + block.nin_shortcut.bias[:, None, None]
    torch.testing.assert_close(block(X, None if temb_channels is None else TEMB), skip + h, atol=1e-5, rtol=1e-5)


def test_parameters_have_the_names_of_latent_diffusion():
    names = {key.rpartition(".")[0] for key in ResnetBlock(32, 64, 8).state_dict()}
    assert names == {"norm1", "conv1", "temb_proj", "norm2", "conv2", "nin_shortcut"}
    assert {key.rpartition(".")[0] for key in ResnetBlock(32).state_dict()} == {"norm1", "conv1", "norm2", "conv2"}
    assert {key.rpartition(".")[0] for key in AttnBlock(32).state_dict()} == {"norm", "q", "k", "v", "proj_out"}
    assert set(LinearAttnBlock(32).state_dict()) == {"to_qkv.weight", "to_out.weight", "to_out.bias"}


@pytest.mark.parametrize("block", [ResnetBlock(32), AttnBlock(32)])
def test_norms_have_the_smaller_epsilon(block):
    """The goldens cannot tell: it moves outputs by less than their tolerance."""
    assert {module.eps for module in block.modules() if isinstance(module, GroupNorm)} == {1e-6}


def test_dropout_acts_in_training_only():
    block = randomized(ResnetBlock(32, dropout=0.5))
    assert torch.equal(block(X), block(X))
    block.train()
    assert not torch.equal(block(X), block(X))


def test_attention_is_the_softmax_over_all_cells():
    block = randomized(AttnBlock(32))
    h = block.norm(X)
    q, k, v = (to(h).flatten(2) for to in (block.q, block.k, block.v))  # (b, c, n)
    weights = torch.softmax(torch.einsum("bcn,bcm->bnm", q, k) / 32**0.5, dim=-1)
    attended = torch.einsum("bnm,bcm->bcn", weights, v).reshape(X.shape)
    torch.testing.assert_close(block(X), X + block.proj_out(attended), atol=1e-5, rtol=1e-5)


def test_linear_attention_has_its_softmax_over_the_keys():
    block = randomized(LinearAttnBlock(32))
    q, k, v = block.to_qkv(X).flatten(2).split(32, dim=1)
    weights = torch.einsum("bcn,bcm->bnm", q, torch.softmax(k, dim=2))  # never formed by the block
    attended = torch.einsum("bnm,bdm->bdn", weights, v).reshape(X.shape)
    torch.testing.assert_close(block(X), block.to_out(attended), atol=1e-5, rtol=1e-5)


def test_each_name_is_the_attention_it_says():
    """B35: and no other name is silently some attention."""
    assert isinstance(attention_block("vanilla", 32), AttnBlock)
    assert isinstance(attention_block("linear", 32), LinearAttnBlock)
    assert torch.equal(attention_block("none", 32)(X), X)
    for name in ("memory-efficient-cross-attn", "vanilla-xformers"):
        with pytest.raises(ValueError, match=f"attn_type is '{name}'; known: 'vanilla', 'linear', 'none'"):
            attention_block(name, 32)


def test_downsampling_looks_right_and_down():
    block = randomized(Downsample(32))
    kernel, bias = block.conv.weight, block.conv.bias
    expected = torch.einsum("ocij,bcij->bo", kernel[..., :2, :], X[:, :, 2:4, 2:5]) + bias  # row 4 is past the edge
    torch.testing.assert_close(block(X)[:, :, 1, 1], expected, atol=1e-5, rtol=1e-5)


def test_without_a_convolution_downsampling_is_the_mean_of_four_cells():
    expected = X.unflatten(2, (2, 2)).unflatten(4, (3, 2)).mean((3, 5))
    torch.testing.assert_close(Downsample(32, use_conv=False)(X), expected)


@pytest.mark.parametrize("use_conv", [False, True])
def test_downsampling_an_odd_side_rounds_down(use_conv):
    assert Downsample(32, use_conv)(draw(1, 32, 7, 5)).shape == (1, 32, 3, 2)
