import pytest
import torch

from sgm_plugins.networks.resample import Downsample, Upsample


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("size", [8, 7])
@pytest.mark.parametrize("use_conv", [True, False])
def test_halves_rounding_up_and_doubles_all_axes_but_the_frames(dims, size, use_conv):
    x = torch.ones(2, 4, *[size] * dims)
    frames = [size] if dims == 3 else []
    image = dims - len(frames)
    assert Downsample(4, dims, use_conv)(x).shape == (2, 4, *frames, *[4] * image)
    assert Upsample(4, dims, use_conv)(x).shape == (2, 4, *frames, *[2 * size] * image)


def test_without_a_convolution_downsampling_is_the_mean_and_upsampling_repeats():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    down = Downsample(1, use_conv=False)(x)
    assert down.flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert torch.equal(Upsample(1, use_conv=False)(down), down.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_the_mean_at_an_odd_edge_counts_only_what_is_there():
    assert torch.equal(Downsample(1, use_conv=False)(torch.ones(1, 1, 5, 5)), torch.ones(1, 1, 3, 3))


def test_the_convolutions_are_a_stride_of_two_and_a_doubling_first():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 3, 6, 6, generator=generator)
    down, up = Downsample(3), Upsample(3)
    full = torch.nn.functional.conv2d(x, down.op.weight, down.op.bias, padding=1)
    torch.testing.assert_close(down(x), full[..., ::2, ::2])
    torch.testing.assert_close(up(x), up.conv(x.repeat_interleave(2, 2).repeat_interleave(2, 3)))
