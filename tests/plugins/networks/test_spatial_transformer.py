import pytest
import torch

from sgm_plugins.networks.spatial_transformer import SpatialTransformer, TransformerBlock


def randomized(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return module


X = torch.randn(2, 32, 4, 6, generator=torch.Generator().manual_seed(1))
CONTEXT = torch.randn(2, 3, 10, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("use_linear", [False, True])
def test_is_the_identity_at_initialization(use_linear):
    assert torch.equal(SpatialTransformer(32, 4, context_dim=10, use_linear=use_linear)(X, CONTEXT), X)


def test_linear_and_convolutional_projections_are_the_same_function():
    linear = randomized(SpatialTransformer(32, 4, depth=2, context_dim=10, use_linear=True))
    convolution = SpatialTransformer(32, 4, depth=2, context_dim=10)
    shapes = {key: value.shape for key, value in convolution.state_dict().items()}
    convolution.load_state_dict({key: value.reshape(shapes[key]) for key, value in linear.state_dict().items()})
    torch.testing.assert_close(convolution(X, CONTEXT), linear(X, CONTEXT), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("context", [None, CONTEXT])
def test_has_no_notion_of_where_a_cell_is(context):
    transformer = randomized(SpatialTransformer(32, 4, context_dim=None if context is None else 10))
    moved = X.flip(2).roll(1, 3)
    expected = transformer(X, context).flip(2).roll(1, 3)
    torch.testing.assert_close(transformer(moved, context), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("disabled", [False, True])
def test_without_self_attention_cells_do_not_see_each_other(disabled):
    transformer = randomized(SpatialTransformer(32, 4, context_dim=10, disable_self_attn=disabled))
    transformer.norm = torch.nn.Identity()  # its statistics would tell them of each other
    other = X.clone()
    other[:, :, 0] += 1
    unmoved = torch.allclose(transformer(X, CONTEXT)[:, :, 1:], transformer(other, CONTEXT)[:, :, 1:], atol=1e-6)
    assert unmoved == disabled


@pytest.mark.parametrize("dims", [1, 3])
@pytest.mark.parametrize("use_linear", [False, True])
def test_a_grid_of_any_number_of_axes_is_attended_to_as_a_whole(dims, use_linear):
    transformer = randomized(SpatialTransformer(32, 4, dims=dims, use_linear=use_linear))
    flat = randomized(SpatialTransformer(32, 4, dims=1, use_linear=True))
    flat.load_state_dict(
        {key: value.reshape(flat.state_dict()[key].shape) for key, value in transformer.state_dict().items()}
    )
    x = torch.randn(2, 32, *[3] * dims, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(transformer(x).flatten(2), flat(x.flatten(2)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cross_attention", [False, True])
@pytest.mark.parametrize("feed_forward_first", [False, True])
def test_a_block_is_its_pre_norm_residual_layers_in_a_row(feed_forward_first, cross_attention):
    block = randomized(
        TransformerBlock(8, 2, 10, feed_forward_first=feed_forward_first, cross_attention=cross_attention)
    )
    h = x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(3))
    if feed_forward_first:
        h = h + block.ff_in(block.norm_in(h))
    h = h + block.attn1(block.norm1(h))
    if cross_attention:
        h = h + block.attn2(block.norm2(h), CONTEXT)
    h = h + block.ff(block.norm3(h))
    torch.testing.assert_close(block(x, CONTEXT), h)


def test_dropout_acts_in_training_only():
    transformer = randomized(SpatialTransformer(32, 4, context_dim=10, dropout=0.5))
    assert not torch.equal(transformer(X, CONTEXT), transformer(X, CONTEXT))
    transformer.eval()
    assert torch.equal(transformer(X, CONTEXT), transformer(X, CONTEXT))
