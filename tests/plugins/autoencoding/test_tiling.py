import itertools

import pytest
import torch
from support.autoencoders import SMALL, images, randomized
from torch import nn

from sgm_plugins.autoencoding.decoder import Decoder
from sgm_plugins.autoencoding.encoder import Encoder
from sgm_plugins.autoencoding.tiling import Tiling, in_chunks, tiled

LENGTHS = [(8, 3, 8), (8, 3, 9), (8, 3, 23), (8, 7, 23), (4, 0, 10), (5, 1, 17), (64, 16, 100), (8, 3, 5)]


@pytest.mark.parametrize(("size", "overlap", "length"), LENGTHS)
@pytest.mark.parametrize("scale", [1, 2, 8])
def test_tiles_cover_an_axis_and_their_weights_sum_to_one(size, overlap, length, scale):
    tiling = Tiling(size, overlap)
    total = torch.zeros(length * scale)
    starts = tiling.starts(length)
    assert starts[-1] + min(size, length) == length
    assert all(b - a <= size - overlap for a, b in itertools.pairwise(starts))
    for start, weight in zip(starts, tiling.weights(length, scale, torch.empty(0)), strict=True):
        assert len(weight) == min(size, length) * scale
        assert (weight >= 0).all()
        total[start * scale : start * scale + len(weight)] += weight
    torch.testing.assert_close(total, torch.ones_like(total))


class LocalDecoder(nn.Sequential):
    """Twice the size; looks one cell around."""

    def __init__(self):
        super().__init__(nn.Conv2d(4, 8, 3, padding=1), nn.SiLU(), nn.Upsample(scale_factor=2), nn.Conv2d(8, 3, 1))


class LocalEncoder(nn.Sequential):
    """Half the size; looks one cell around, and no further than that."""

    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 4, 2, stride=2))


@pytest.mark.parametrize("shape", [(20, 20), (8, 31), (33, 9), (21, 17)])
def test_tiles_are_the_whole_for_a_decoder_that_sees_no_further_than_a_quarter_of_the_overlap(shape):
    decoder, z = LocalDecoder().double(), torch.randn(2, 4, *shape, dtype=torch.float64)
    torch.testing.assert_close(tiled(decoder, z, Tiling(8, 4), up=2), decoder(z), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(tiled(decoder, z, Tiling(8, 0), up=2), decoder(z), atol=1e-3)


@pytest.mark.parametrize("shape", [(40, 40), (17, 62), (67, 18)])
def test_tiles_are_the_whole_for_an_encoder_that_sees_no_further_than_a_quarter_of_the_overlap(shape):
    encoder, x = LocalEncoder().double(), torch.randn(2, 3, *shape, dtype=torch.float64)
    torch.testing.assert_close(tiled(encoder, x, Tiling(8, 4), down=2), encoder(x), rtol=1e-12, atol=1e-12)


def test_no_tile_is_larger_than_it_should_be():
    seen = []

    def decoder(z):
        seen.append(tuple(z.shape[-2:]))
        return z

    tiled(decoder, torch.zeros(1, 1, 30, 9), Tiling(8, 2))
    assert set(seen) == {(8, 8)}
    assert len(seen) == 5 * 2


def test_what_fits_into_a_tile_is_done_at_once():
    z = torch.randn(1, 4, 8, 8)
    assert tiled(lambda z: z, z, Tiling(8, 2)) is z
    assert tiled(lambda z: z, z, None) is z


def test_blending_leaves_no_seams():
    """The steps from one column or row of pixels to the next are not much larger anywhere than in the whole picture."""
    decoder, z = randomized(Decoder(**SMALL)), images(size=40, channels=4)
    with torch.no_grad():
        whole = decoder(z)

    def largest_step(overlap):
        with torch.no_grad():
            parts = tiled(decoder, z, Tiling(16, overlap), up=2)
        steps = []
        for axis, others in ((-1, (0, 1, 2)), (-2, (0, 1, 3))):
            steps.append(parts.diff(dim=axis).abs().mean(others) / whole.diff(dim=axis).abs().mean(others))
        return torch.cat(steps).max()

    assert largest_step(12) < 2.5
    assert largest_step(0) > 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_halves_of_the_autoencoder_run_in_tiles(dtype):
    x = images(size=48).to(dtype)
    encoder, decoder = randomized(Encoder(**SMALL)).to(dtype), randomized(Decoder(**SMALL)).to(dtype)
    moments = tiled(encoder, x, Tiling(12, 4), down=2)
    image = tiled(decoder, moments[:, :4], Tiling(12, 4), up=2)
    assert (moments.shape, image.shape) == ((2, 8, 24, 24), (2, 3, 48, 48))
    assert (moments.dtype, image.dtype) == (dtype, dtype)


def test_gradients_pass_through_tiles():
    z = torch.randn(1, 4, 20, 20, dtype=torch.float64, requires_grad=True)
    decoder = LocalDecoder().double()
    whole = torch.autograd.grad(decoder(z).square().sum(), z)[0]
    parts = torch.autograd.grad(tiled(decoder, z, Tiling(8, 4), up=2).square().sum(), z)[0]
    torch.testing.assert_close(parts, whole)


@pytest.mark.parametrize("overlap", [8, 9, -1])
def test_an_overlap_that_leaves_no_way_forward_is_refused(overlap):
    with pytest.raises(ValueError, match=f"tiles of 8 cannot overlap by {overlap}"):
        Tiling(8, overlap)


def test_chunks_are_the_whole_and_no_larger_than_asked_for():
    x, seen = torch.randn(7, 2), []

    def double(x):
        seen.append(len(x))
        return 2 * x

    assert torch.equal(in_chunks(double, x, 3), 2 * x)
    assert seen == [3, 3, 1]
    assert torch.equal(in_chunks(double, x, None), 2 * x)
    assert seen[-1] == 7
