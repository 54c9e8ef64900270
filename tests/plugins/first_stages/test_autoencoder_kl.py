import pytest
import torch
from support.autoencoders import SMALL, images, randomized

from sgm_plugins.autoencoding.tiling import Tiling
from sgm_plugins.first_stages.autoencoder_kl import AutoencoderKL, AutoencoderKLMode


def test_a_latent_is_drawn_around_the_mode():
    stage, mode, x = randomized(AutoencoderKL(**SMALL)), randomized(AutoencoderKLMode(**SMALL)), images()
    mean, log_variance = stage.moments(x).chunk(2, dim=1)
    torch.manual_seed(0)
    z = stage.encode(x)
    torch.manual_seed(0)
    torch.testing.assert_close(z, mean + (log_variance / 2).exp() * torch.randn(2, 4, 8, 8))
    assert torch.equal(mode.encode(x), mean)


def test_the_channels_of_the_latents_are_of_their_own():
    stage = AutoencoderKL(**SMALL, embed_dim=2, z_channels=5)
    assert stage.quant_conv.weight.shape == (4, 10, 1, 1)
    assert stage.post_quant_conv.weight.shape == (5, 2, 1, 1)
    assert stage.autoencode(images()).z.shape == (2, 2, 8, 8)


def test_images_may_have_any_number_of_channels():
    stage = AutoencoderKL(**SMALL, in_channels=1, out_ch=2)
    assert stage.autoencode(images(channels=1)).reconstruction.shape == (2, 2, 16, 16)


def test_a_shift_and_a_scale_are_of_the_latents_alone():
    plain = randomized(AutoencoderKLMode(**SMALL))
    moved = randomized(AutoencoderKLMode(**SMALL, shift=0.5, scale=[1.0, 2.0, 4.0, 8.0]))
    x = images()
    z = moved.encode(x)
    expected = (plain.encode(x) - 0.5) * torch.tensor([1.0, 2.0, 4.0, 8.0])[:, None, None]
    assert torch.equal(z, expected)
    torch.testing.assert_close(moved.autoencode(x).reconstruction, plain.autoencode(x).reconstruction)
    assert moved.state_dict().keys() == plain.state_dict().keys()


def test_they_hold_in_tiles_and_chunks_too():
    parts = {"chunk": 1, "tiling": Tiling(12, 4)}
    plain = randomized(AutoencoderKLMode(**SMALL, **parts))
    moved = randomized(AutoencoderKLMode(**SMALL, **parts, shift=0.5, scale=2.0))
    x = images(size=64)
    assert torch.equal(moved.encode(x), (plain.encode(x) - 0.5) * 2.0)
    torch.testing.assert_close(moved.decode(moved.encode(x)), plain.decode(plain.encode(x)))


def test_without_quantizing_convolutions_a_file_has_the_names_of_flux():
    keys = AutoencoderKL(**SMALL, quant_conv=False).state_dict().keys()
    assert {key.partition(".")[0] for key in keys} == {"encoder", "decoder"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"quant_conv": False, "embed_dim": 2}, "embed_dim is 2 and z_channels 4"),
        ({"shift": [0.0, 1.0]}, "shift has 2 numbers, and latents 4 channels"),
        ({"scale": 0.0}, "scale is 0.0"),
        ({"ch": 24}, "multiple of 32"),
        ({"ch_mult": [1, 1.26]}, "ch_mult"),
    ],
)
def test_what_makes_no_autoencoder_is_refused(options, expected):
    with pytest.raises(ValueError, match=expected):
        AutoencoderKL(**{**SMALL, **options})
