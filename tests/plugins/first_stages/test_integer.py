import pytest
import torch
from support.autoencoders import SMALL, images, randomized

from sgm_core.testing import check_component
from sgm_plugins.autoencoding.decoder import Decoder
from sgm_plugins.autoencoding.encoder import Encoder
from sgm_plugins.first_stages.autoencoder import Autoencoder
from sgm_plugins.first_stages.autoencoder_kl import AutoencoderKL
from sgm_plugins.first_stages.integer import IntegerFirstStage
from sgm_plugins.first_stages.vq import VQFirstStage
from sgm_plugins.regularizers.ema_vq import EMAVectorQuantizer
from sgm_plugins.regularizers.gumbel import GumbelQuantizer
from sgm_plugins.regularizers.vq import VectorQuantizer


def with_quantizer(quantizer):
    encoder = Encoder(**SMALL, double_z=False)
    return randomized(Autoencoder(Decoder(**SMALL), quantizer, encoder))


QUANTIZERS = {
    "vq": lambda: VectorQuantizer(9, 4),
    "ema_vq": lambda: EMAVectorQuantizer(9, 4),
    "gumbel": lambda: GumbelQuantizer(num_hiddens=4, n_embed=9, embed_dim=4),
}


@pytest.mark.parametrize("name", QUANTIZERS)
def test_codes_of_every_quantizer_decode_to_the_reconstruction(name):
    """B36: each quantizer of the reference called its codes something else, and one of three could be used."""
    model, x = with_quantizer(QUANTIZERS[name]()), images()
    stage = IntegerFirstStage(model)
    torch.manual_seed(0)
    codes = stage.encode(x)
    torch.manual_seed(0)
    expected = model.autoencode(x)
    assert codes.shape == (2, 8, 8)
    assert codes.dtype == torch.int64
    assert torch.equal(codes, expected.log["indices"])
    torch.testing.assert_close(stage.decode(codes), expected.reconstruction, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(stage.decode(codes.to(torch.uint8)), stage.decode(codes))


def test_codes_in_a_row():
    model, x = randomized(VQFirstStage(n_embed=9, **SMALL)), images()
    grid, row = IntegerFirstStage(model), IntegerFirstStage(model, shape=(8, 8))
    codes = row.encode(x)
    assert torch.equal(codes, grid.encode(x).flatten(1))
    assert torch.equal(row.decode(codes), grid.decode(grid.encode(x)))
    with pytest.raises(ValueError, match=r"images of \(20, 20\) have codes of \(10, 10\), not \(8, 8\)"):
        row.encode(images(size=20))
    with pytest.raises(ValueError, match=r"codes of \(2, 63\) are not \(b, 64\)"):
        row.decode(codes[:, :63])


def test_what_has_no_codes_is_refused():
    with pytest.raises(ValueError, match="GaussianRegularizer, which has no codes"):
        IntegerFirstStage(AutoencoderKL(**SMALL))
    with pytest.raises(ValueError, match="codes are integers"):
        IntegerFirstStage(VQFirstStage(n_embed=9, **SMALL)).decode(torch.zeros(1, 8, 8))


def test_the_contract(register):
    register("first_stages", "small_vq")(VQFirstStage)
    check_component("first_stages", IntegerFirstStage, first_stage=SMALL | {"use": "small_vq", "n_embed": 9})
