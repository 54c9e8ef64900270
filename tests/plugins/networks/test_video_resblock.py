import pytest
import torch
from support.networks import draw, randomized

from sgm_plugins.networks.clips import Clips
from sgm_plugins.networks.resblock import ResBlock
from sgm_plugins.networks.video_resblock import VideoResBlock, video_kernel

X, EMB = draw(6, 32, 4, 4), draw(6, 8)


def make(strategy="fixed", factor=0.0, **options):
    return randomized(VideoResBlock(strategy, factor, (3, 1, 1), 32, 8, 64, **options))


def test_with_all_weight_on_the_image_layers_it_is_the_block_of_images():
    block = make(factor=1.0)
    image_block = ResBlock(32, 8, 64).eval()
    image_block.load_state_dict(block.state_dict(), strict=False)
    torch.testing.assert_close(block(X, EMB, Clips(3)), image_block(X, EMB))


def test_frames_of_a_clip_see_their_neighbours_and_clips_do_not_see_each_other():
    block, other = make(), X.clone()
    for norm in (block.time_stack.in_layers[0], block.time_stack.out_layers[0]):
        norm.forward = lambda x: x  # its statistics go over the whole clip
    other[0] += 1
    changed = (block(X, EMB, Clips(3)) - block(other, EMB, Clips(3))).abs().amax((1, 2, 3)) > 1e-6
    assert changed.tolist() == [True, True, True, False, False, False]
    changed = (block(X, EMB, Clips(6)) - block(other, EMB, Clips(6))).abs().amax((1, 2, 3)) > 1e-6
    assert changed.tolist() == [True, True, True, False, False, False]  # two convolutions of three frames


def test_rows_that_are_images_do_not_take_part():
    block = make("learned_with_images")
    images = torch.tensor([True, True, True, False, False, False])
    mixed = block(X, EMB, Clips(3, images))
    torch.testing.assert_close(mixed[:3], ResBlock.forward(block, X, EMB)[:3])
    assert not torch.allclose(mixed[3:], ResBlock.forward(block, X, EMB)[3:], atol=1e-3)


def test_a_block_that_halves_the_image_keeps_the_frames():
    assert make(resample="down")(X, EMB, Clips(3)).shape == (6, 64, 2, 2)


@pytest.mark.parametrize("size", [2, [3, 1], [3, 2, 1], [3, 1, 0]])
def test_kernels_that_would_change_the_size_are_named(size):
    with pytest.raises(ValueError, match=r"video_kernel_size is .*odd number"):
        video_kernel(size)


def test_one_number_is_the_size_along_all_axes():
    assert video_kernel(3) == (3, 3, 3)
    assert video_kernel([3, 1, 1]) == (3, 1, 1)
