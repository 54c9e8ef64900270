import pytest
import torch
from safetensors.torch import save_file
from support.autoencoders import images, randomized

from sgm_core.testing import check_component
from sgm_plugins.autoencoding.tiling import Tiling
from sgm_plugins.first_stages.tiny import TinyAutoencoder

diffusers = pytest.importorskip("diffusers")

SMALL = {"embed_dim": 16, "width": 8, "encoder_blocks": [1, 2, 1], "decoder_blocks": [2, 1, 0]}


def theirs(told):
    """Of diffusers, with random weights."""
    widths = {f"{half}_block_out_channels": [told["width"]] * 3 for half in ("encoder", "decoder")}
    blocks = {f"num_{half}_blocks": told[f"{half}_blocks"] for half in ("encoder", "decoder")}
    return randomized(diffusers.AutoencoderTiny(latent_channels=told["embed_dim"], **widths, **blocks))


@torch.no_grad()
def test_the_same_as_in_diffusers():
    ours, other, x = TinyAutoencoder(**SMALL).eval(), theirs(SMALL), images()
    ours.load_state_dict(other.state_dict())
    z = ours.encode(x)
    torch.testing.assert_close(z, other.encode(x).latents, rtol=1e-5, atol=1e-5)
    assert z.shape == (2, 16, 4, 4)
    torch.testing.assert_close(ours.decode(2 * z), other.decode(2 * z).sample, rtol=1e-5, atol=1e-5)


def test_the_published_size_has_the_keys_and_shapes_of_diffusers():
    with torch.device("meta"):
        ours, other = TinyAutoencoder().state_dict(), diffusers.AutoencoderTiny().state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in other.items()}


def test_it_starts_from_a_file_for_diffusers(tmp_path):
    state = theirs(SMALL).state_dict()
    save_file(state, tmp_path / "tiny.safetensors")
    ours = TinyAutoencoder(**SMALL, weights=tmp_path / "tiny.safetensors").state_dict()
    assert all(torch.equal(ours[key], state[key]) for key in state)


@torch.no_grad()
def test_in_tiles_and_chunks():
    whole, tiles = TinyAutoencoder(**SMALL), TinyAutoencoder(**SMALL, chunk=1, tiling=Tiling(16, 12))
    tiles.load_state_dict(whole.state_dict())
    z = torch.randn(2, 16, 24, 20, generator=torch.Generator().manual_seed(0))
    # (12 - 4) / 4 cells beyond its edge decide about a pixel: 3 of overlap are enough for the rest
    torch.testing.assert_close(tiles.decode(z), whole.decode(z), rtol=1e-3, atol=1e-3)


def test_it_is_a_component():
    check_component("first_stages", TinyAutoencoder, **SMALL)


def test_without_a_level_it_is_refused():
    with pytest.raises(ValueError, match="there must be a level"):
        TinyAutoencoder(encoder_blocks=[])
