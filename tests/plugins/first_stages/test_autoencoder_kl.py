import torch
from support.autoencoders import SMALL, images, randomized

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
