import pytest
import torch
from support.autoencoders import SMALL, images, randomized

from sgm_plugins.autoencoding.decoder import Decoder


@pytest.mark.parametrize(("levels", "size"), [(1, 8), (2, 16), (3, 32)])
def test_each_level_but_the_first_doubles_the_size(levels, size):
    decoder = Decoder(ch=32, ch_mult=[1] * levels, num_res_blocks=1, z_channels=5, out_ch=2)
    assert decoder.factor == size // 8
    assert decoder(images(size=8, channels=5)).shape == (2, 2, size, size)


def test_samples_of_a_batch_do_not_see_each_other():
    decoder, z = randomized(Decoder(**SMALL)), images(channels=4)
    torch.testing.assert_close(decoder(z)[:1], decoder(z[:1]), rtol=1e-5, atol=1e-5)


def test_every_parameter_matters():
    decoder = randomized(Decoder(**SMALL, attn_resolutions=[128]))
    decoder(images(channels=4)).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in decoder.parameters())


def test_tanh_keeps_images_in_range():
    z = 100 * images(channels=4)
    plain, squashed = (randomized(Decoder(**SMALL, tanh_out=tanh_out)) for tanh_out in (False, True))
    torch.testing.assert_close(squashed(z), plain(z).tanh())


def test_resampling_with_and_without_convolutions():
    keys = {key for key in Decoder(**SMALL).state_dict() if "upsample" in key}
    assert keys == {"up.1.upsample.conv.weight", "up.1.upsample.conv.bias"}
    plain = Decoder(**SMALL, resamp_with_conv=False)
    assert not [key for key in plain.state_dict() if "upsample" in key]
    assert plain(images(size=4, channels=4)).shape == (2, 3, 8, 8)


def test_the_last_layer_is_the_weight_nearest_to_the_image():
    """Nothing comes after it: the image is linear in it."""
    decoder, z = randomized(Decoder(**SMALL)), images(channels=4)
    bias = decoder.conv_out.bias[:, None, None]
    before = decoder(z) - bias
    with torch.no_grad():
        decoder.last_layer.mul_(2)
    torch.testing.assert_close(decoder(z) - bias, 2 * before)
