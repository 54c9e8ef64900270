import torch
from support.autoencoders import SMALL, images, randomized

from sgm_plugins.first_stages.vq import VQFirstStage


def test_latents_are_entries_of_the_codebook():
    stage = randomized(VQFirstStage(n_embed=20, **SMALL))
    z, log = stage.encode_with_log(images())
    codebook = stage.regularization.embedding.weight
    assert log["indices"].shape == (2, 8, 8)
    torch.testing.assert_close(z.movedim(1, -1), codebook[log["indices"]])


def test_the_encoder_gives_no_variances():
    stage = VQFirstStage(n_embed=20, embed_dim=2, z_channels=5, **SMALL)
    assert stage.quant_conv.weight.shape == (2, 5, 1, 1)
    assert stage.post_quant_conv.weight.shape == (5, 2, 1, 1)


def test_beta_weighs_the_loss_of_the_encoder():
    def loss(beta):
        torch.manual_seed(0)
        stage = randomized(VQFirstStage(n_embed=20, beta=beta, **SMALL))
        return stage.encode_with_log(images())[1]["vq_loss"]

    torch.testing.assert_close(loss(3.0), 4 * loss(0.0))
