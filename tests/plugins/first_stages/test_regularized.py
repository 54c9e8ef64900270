"""What is true of every first stage with encoder, regularizer and decoder."""

import pytest
import torch
from safetensors.torch import save_file
from support.autoencoders import SMALL, images, randomized

from sgm_core.testing import check_component
from sgm_plugins.autoencoding.decoder import Decoder
from sgm_plugins.autoencoding.encoder import Encoder
from sgm_plugins.autoencoding.temporal_decoder import TemporalDecoder
from sgm_plugins.autoencoding.tiling import Tiling
from sgm_plugins.first_stages.autoencoder import Autoencoder
from sgm_plugins.first_stages.autoencoder_kl import AutoencoderKL, AutoencoderKLMode
from sgm_plugins.first_stages.temporal import TemporalAutoencoder
from sgm_plugins.first_stages.vq import VQFirstStage
from sgm_plugins.regularizers.gaussian import GaussianRegularizer
from sgm_plugins.regularizers.identity import IdentityRegularizer

MAKERS = {
    "autoencoder": lambda **options: Autoencoder(Decoder(**SMALL), GaussianRegularizer(), Encoder(**SMALL), **options),
    "autoencoder_kl": lambda **options: AutoencoderKL(**SMALL, **options),
    "autoencoder_kl_mode": lambda **options: AutoencoderKLMode(**SMALL, **options),
    "temporal": lambda **options: TemporalAutoencoder(
        TemporalDecoder(**SMALL), GaussianRegularizer(), Encoder(**SMALL), **options
    ),
    "vq": lambda **options: VQFirstStage(n_embed=50, **SMALL, **options),
}
LOSSES = dict.fromkeys(MAKERS, "kl_loss") | {"vq": "vq_loss"}
ALL = pytest.mark.parametrize("name", MAKERS)


def build(name, **options):
    return randomized(MAKERS[name](**options))


@ALL
def test_the_contract(name):
    encoder = SMALL | {"use": "conv", "double_z": False}
    parts = {"encoder": encoder, "decoder": SMALL | {"use": "conv"}, "regularizer": IdentityRegularizer()}
    params = {
        "autoencoder": parts,
        "temporal": parts | {"decoder": SMALL | {"use": "temporal"}, "num_frames": 2},
        "vq": SMALL | {"n_embed": 6},
    }
    check_component("first_stages", type(MAKERS[name]()), **params.get(name, SMALL))


@ALL
def test_one_pass_encodes_and_decodes_as_the_two_calls_do(name):
    """And runs the encoder once: the reconstruction is that of the very latents in the result."""
    stage, x = build(name), images()
    calls = []
    stage.encoder.register_forward_hook(lambda *_: calls.append("encoder"))
    torch.manual_seed(0)
    result = stage.autoencode(x)
    assert calls == ["encoder"]
    torch.manual_seed(0)
    z = stage.encode(x)
    assert torch.equal(result.z, z)
    assert torch.equal(result.reconstruction, stage.decode(z))
    assert result.reconstruction.shape == x.shape


@ALL
def test_the_log_has_losses_as_tensors_with_gradients(name):
    _, log = build(name).encode_with_log(images())
    assert log[LOSSES[name]].ndim == 0
    assert log[LOSSES[name]].requires_grad
    assert [key for key in log if key.endswith("_loss")] == [LOSSES[name]]


@ALL
def test_every_parameter_is_trained(name):
    """The convolutions next to the latents too."""
    stage = build(name).train()
    result = stage.autoencode(images())
    (result.reconstruction.square().mean() + result.log[LOSSES[name]]).backward()
    assert [key for key, p in stage.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@ALL
def test_the_last_layer_is_a_parameter_of_the_decoder(name):
    stage = build(name)
    assert any(stage.last_layer is parameter for parameter in stage.decoder.parameters())
    reconstruction = stage.autoencode(images()).reconstruction
    assert torch.autograd.grad(reconstruction.sum(), stage.last_layer)[0].abs().sum() > 0


@ALL
def test_chunks_change_memory_and_not_results(name):
    whole, parts, x = build(name), build(name, chunk=2), images(n=4)
    batches = {"encoder": [], "decoder": []}
    for half, seen in batches.items():
        getattr(parts, half).register_forward_pre_hook(lambda _, given, seen=seen: seen.append(len(given[0])))
    torch.manual_seed(0)
    expected = whole.autoencode(x)
    torch.manual_seed(0)
    result = parts.autoencode(x)
    assert batches["encoder"] == [2, 2]
    assert batches["decoder"] == ([4] if name == "temporal" else [2, 2])  # a clip of four is not cut
    torch.testing.assert_close(result.reconstruction, expected.reconstruction, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(result.log[LOSSES[name]], expected.log[LOSSES[name]])


@ALL
def test_tiles_limit_what_encoder_and_decoder_see(name):
    """And encode and decode the whole: the same shapes, one draw of noise, one log."""
    stage, x = build(name, tiling=Tiling(8, 4)), images(size=40)
    sides = {"encoder": set(), "decoder": set()}
    for half, seen in sides.items():
        getattr(stage, half).register_forward_pre_hook(lambda _, given, seen=seen: seen.add(given[0].shape[-2:]))
    result = stage.autoencode(x)
    assert sides == {"encoder": {(16, 16)}, "decoder": {(8, 8)}}
    assert result.reconstruction.shape == x.shape
    assert result.z.shape[-2:] == (20, 20)
    assert result.reconstruction.isfinite().all()


@ALL
def test_in_tiles_it_gives_what_one_built_with_tiles_gives_and_forgets_them(name):
    tiled, x = build(name, tiling=Tiling(8, 2)), images(size=40)
    whole = build(name)
    whole.load_state_dict(tiled.state_dict())
    z = torch.randn(len(x), *tiled.encode(x).shape[1:])
    with whole.in_tiles(8):
        assert torch.equal(whole.decode(z), tiled.decode(z))
    assert whole.tiling is None
    assert not torch.equal(whole.decode(z), tiled.decode(z))


@ALL
@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_weights_are_taken_from_a_file(name, prefix, tmp_path):
    """In the layout of a first stage's own checkpoint, with the loss beside it, and in that of a whole model."""
    stage = build(name)
    beside = {f"{prefix.replace('first_stage_model.', 'model.')}loss.logvar": torch.zeros(1)}
    save_file(
        {f"{prefix}{key}": value for key, value in stage.state_dict().items()} | beside, tmp_path / "a.safetensors"
    )
    found = MAKERS[name](weights=tmp_path / "a.safetensors").state_dict()
    assert found.keys() == stage.state_dict().keys()
    assert all(torch.equal(found[key], value) for key, value in stage.state_dict().items())
    with pytest.raises(ValueError, match="no such run or checkpoint"):
        MAKERS[name](weights=tmp_path / "b.safetensors")


def test_a_decoder_alone_takes_its_half_of_the_weights(tmp_path):
    whole = build("autoencoder")
    save_file(whole.state_dict(), tmp_path / "a.safetensors")
    half = Autoencoder(Decoder(**SMALL), GaussianRegularizer(), weights=tmp_path / "a.safetensors")
    assert torch.equal(half.decoder.conv_in.weight, whole.decoder.conv_in.weight)
