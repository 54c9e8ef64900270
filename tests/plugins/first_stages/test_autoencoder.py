import pytest
import torch
from support.autoencoders import SMALL, images
from torch import nn

import sgm_core as sgm
from sgm_core.errors import SgmError
from sgm_plugins.autoencoding.decoder import Decoder
from sgm_plugins.autoencoding.encoder import Encoder
from sgm_plugins.autoencoding.temporal_decoder import TemporalDecoder
from sgm_plugins.autoencoding.tiling import Tiling
from sgm_plugins.first_stages.autoencoder import Autoencoder
from sgm_plugins.regularizers.gaussian import GaussianRegularizer
from sgm_plugins.regularizers.identity import IdentityRegularizer


@pytest.fixture(autouse=True)
def _registered(register):
    register("first_stages", "free")(Autoencoder)
    register("regularizers", "normal")(GaussianRegularizer)


def test_a_config_names_encoder_and_decoder():
    config = {
        "use": "free",
        "encoder": SMALL | {"use": "conv", "z_channels": 2},
        "decoder": SMALL | {"use": "conv", "ch": 64, "z_channels": 2},
        "regularizer": {"use": "normal", "sample": False},
        "tiling": {"size": 32, "overlap": 8},
    }
    stage = sgm.build("first_stages", config)
    assert isinstance(stage.encoder, Encoder)
    assert isinstance(stage.decoder, Decoder)
    assert stage.decoder.conv_out.in_channels == 64
    assert stage.tiling == Tiling(32, 8)
    assert stage.autoencode(images()).reconstruction.shape == (2, 3, 16, 16)


def test_a_wrong_argument_of_a_half_is_named():
    with pytest.raises(SgmError, match=r"decoder\.attn_typ.*Did you mean 'attn_type'"):
        sgm.build(
            "first_stages",
            {"use": "free", "decoder": SMALL | {"use": "conv", "attn_typ": "none"}, "regularizer": "normal"},
        )


def test_python_may_give_any_modules():
    stage = Autoencoder(nn.ConvTranspose2d(4, 3, 2, 2), IdentityRegularizer(), nn.Conv2d(3, 4, 2, 2))
    result = stage.autoencode(images())
    assert result.z.shape == (2, 4, 8, 8)
    assert result.reconstruction.shape == (2, 3, 16, 16)
    with pytest.raises(ValueError, match="ConvTranspose2d has no attribute `last_layer`"):
        _ = stage.last_layer
    with pytest.raises(ValueError, match="give Conv2d an attribute `factor`"):
        Autoencoder(nn.ConvTranspose2d(4, 3, 2, 2), IdentityRegularizer(), nn.Conv2d(3, 4, 2, 2), tiling=Tiling())


def test_a_decoder_of_clips_is_refused():
    with pytest.raises(ValueError, match="TemporalDecoder mixes the frames of clips: the first stage 'temporal_aut"):
        Autoencoder(TemporalDecoder(**SMALL), IdentityRegularizer())


class Local(nn.Module):
    """Looks one cell around, no further; `factor` pixels per side of a latent's cell."""

    factor = 2

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x)


def test_in_tiles_and_chunks_it_gives_what_it_gives_at_once():
    encoder = Local(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 6, 2, stride=2))
    decoder = Local(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.ConvTranspose2d(8, 3, 2, stride=2))
    whole = Autoencoder(decoder, GaussianRegularizer(), encoder).double()
    parts = Autoencoder(decoder, GaussianRegularizer(), encoder, chunk=2, tiling=Tiling(8, 4)).double()
    x = torch.randn(3, 3, 50, 34, dtype=torch.float64)
    torch.manual_seed(0)
    expected = whole.autoencode(x)
    torch.manual_seed(0)
    result = parts.autoencode(x)
    torch.testing.assert_close(result.z, expected.z)
    torch.testing.assert_close(result.reconstruction, expected.reconstruction)
    torch.testing.assert_close(result.log["kl_loss"], expected.log["kl_loss"])


def test_without_an_encoder_it_decodes_only():
    stage = Autoencoder(Decoder(**SMALL), GaussianRegularizer())
    assert stage.decode(torch.zeros(1, 4, 4, 4)).shape == (1, 3, 8, 8)
    assert all(key.startswith("decoder.") for key in stage.state_dict())
    with pytest.raises(ValueError, match="has no encoder"):
        stage.encode(images())
