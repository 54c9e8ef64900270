import pytest
import torch
from torch.nn.functional import silu

from sgm_plugins.networks.resblock import ResBlock


def randomized(block):
    generator = torch.Generator().manual_seed(0)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return block


X = torch.randn(2, 32, 6, 6, generator=torch.Generator().manual_seed(1))
EMB = torch.randn(2, 8, generator=torch.Generator().manual_seed(2))


def test_is_the_identity_at_initialization():
    assert torch.equal(ResBlock(32, 8)(X, EMB), X)


def test_at_initialization_resampling_is_all_that_a_resampling_block_does():
    assert torch.equal(ResBlock(32, 8, resample="up")(X, EMB), X.repeat_interleave(2, 2).repeat_interleave(2, 3))
    down = ResBlock(32, 8, resample="down")(X, EMB)
    torch.testing.assert_close(down, X.unflatten(2, (3, 2)).unflatten(4, (3, 2)).mean((3, 5)))


@pytest.mark.parametrize("scale_shift", [False, True])
def test_is_the_formula_of_the_papers(scale_shift):
    block = randomized(ResBlock(32, 8, 64, use_scale_shift_norm=scale_shift))
    film = block.emb_layers[1](silu(EMB))[:, :, None, None]
    h = block.in_layers[2](silu(block.in_layers[0](X)))
    norm = block.out_layers[0]
    h = norm(h) * (1 + film[:, :64]) + film[:, 64:] if scale_shift else norm(h + film)
    torch.testing.assert_close(block(X, EMB), block.skip_connection(X) + block.out_layers[3](silu(h)))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_works_on_one_two_and_three_axes(dims):
    block = randomized(ResBlock(32, 8, 64, dims=dims, resample="down"))
    frames = [5] if dims == 3 else []
    y = block(torch.ones(2, 32, *frames, *[4] * (dims - len(frames))), EMB)
    assert y.shape == (2, 64, *frames, *[2] * (dims - len(frames)))


def test_the_kernel_may_span_one_axis_alone():
    block = randomized(ResBlock(32, 8, dims=3, kernel_size=(3, 1, 1)))
    x = torch.randn(1, 32, 4, 2, 2, generator=torch.Generator().manual_seed(3))
    for norm in (block.in_layers[0], block.out_layers[0]):
        norm.forward = lambda x: x  # its statistics would tell cells of each other
    other = x.clone()
    other[..., 0, 1] += 1
    changed = (block(x, EMB[:1]) != block(other, EMB[:1])).any(dim=1)[0]
    assert changed[:, 0, 1].all()
    assert changed.sum() == 4


def test_an_embedding_per_frame_acts_on_its_frame():
    block = randomized(ResBlock(32, 8, 64, dims=3, kernel_size=(1, 3, 3)))
    x = torch.stack([X, X.flip(0)], dim=2)  # (2, 32, 2 frames, 6, 6)
    emb = torch.stack([EMB, 2 * EMB], dim=1)
    for norm in (block.in_layers[0], block.out_layers[0]):
        norm.forward = lambda x: x  # its statistics mix the frames
    frames = [block(x[:, :, i : i + 1], emb[:, i]) for i in range(2)]
    torch.testing.assert_close(block(x, emb), torch.cat(frames, dim=2))


def test_dropout_acts_in_training_only():
    block = randomized(ResBlock(32, 8, dropout=0.5))
    assert not torch.equal(block(X, EMB), block(X, EMB))
    block.eval()
    assert torch.equal(block(X, EMB), block(X, EMB))
