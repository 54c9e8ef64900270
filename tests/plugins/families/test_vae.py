"""Autoencoders of diffusers, of any size, and what they are here."""

import pytest
import torch
from support.autoencoders import images, randomized

import sgm_core as sgm
from sgm_core.checkpoints.family import expanded
from sgm_core.checkpoints.pieces import translated
from sgm_core.errors import SgmError
from sgm_plugins.families import vae
from sgm_plugins.families.settings import vae_settings

diffusers = pytest.importorskip("diffusers")

BLOCKS = {"down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3}
SIZES = {
    "sd_1": {"block_out_channels": [32, 32, 64], **BLOCKS},
    "sd3": {  # FLUX.1 and Z-Image, too
        "block_out_channels": [8, 12, 20],
        "norm_num_groups": 4,
        "layers_per_block": 2,
        "latent_channels": 16,
        "scaling_factor": 1.5305,
        "shift_factor": 0.0609,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        **BLOCKS,
    },
    "without_attention": {
        "block_out_channels": [4, 6],
        "norm_num_groups": 2,
        "mid_block_add_attention": False,
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
    },
    "per_channel": {
        "block_out_channels": [6, 6, 6],
        "norm_num_groups": 3,
        "latents_mean": [0.1, -0.2, 0.3, 0.4],
        "latents_std": [1.0, 2.0, 0.5, 1.5],
        "scaling_factor": 0.5,
        **BLOCKS,
    },
}


def pair(told):
    """Theirs and ours, with the same weights; ours takes the mean, so that nothing is random."""
    theirs = randomized(diffusers.AutoencoderKL(**told))
    ours = sgm.build("first_stages", vae.first_stage(told, "autoencoder_kl_mode")).eval()
    state = {f"vae.{key}": value for key, value in theirs.state_dict().items()}
    pieces, unknown = expanded(vae.vae_rules(state), state)
    assert unknown == []
    weights = translated(pieces, state)
    ours.load_state_dict({key.removeprefix("first_stage_model."): value for key, value in weights.items()})
    return ours, theirs


@pytest.mark.parametrize("name", SIZES)
@torch.no_grad()
def test_an_autoencoder_of_any_size_encodes_and_decodes_as_in_diffusers(name):
    told = SIZES[name]
    ours, theirs = pair(told)
    x, config = images(size=16), theirs.config
    mean, shift, scale = theirs.encode(x).latent_dist.mode(), config.shift_factor or 0.0, config.scaling_factor
    if config.latents_mean:
        shift = torch.tensor(config.latents_mean)[:, None, None]
        scale = scale / torch.tensor(config.latents_std)[:, None, None]
    z = ours.encode(x)
    torch.testing.assert_close(z, (mean - shift) * scale, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.decode(z), theirs.decode(z / scale + shift).sample, rtol=1e-5, atol=1e-5)
    passed = ours.autoencode(x)
    assert torch.equal(passed.z, z)
    torch.testing.assert_close(passed.reconstruction, theirs.decode(mean).sample, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SIZES)
def test_the_config_of_a_folder_comes_back(name):
    told = SIZES[name]
    ours, theirs = pair(told)
    shapes = {key: tuple(value.shape) for key, value in ours.state_dict().items()}
    config = {"model": {"first_stage": vae.first_stage(told), "latent_shape": [4, 8, 8]}}
    written = diffusers.AutoencoderKL.from_config(vae_settings(config, shapes, *vae.size(shapes)))
    assert written.state_dict().keys() == theirs.state_dict().keys()
    assert {key: value.shape for key, value in written.state_dict().items()} == {
        key: value.shape for key, value in theirs.state_dict().items()
    }
    again, first = vae.first_stage(dict(written.config)), vae.first_stage(told)
    assert again.pop("scale") == pytest.approx(first.pop("scale"))
    assert again == first


@torch.no_grad()
def test_a_tiny_one_may_be_in_a_folder_too():
    blocks = {"num_encoder_blocks": [1, 2], "num_decoder_blocks": [2, 1]}
    widths = {"encoder_block_out_channels": [6, 6], "decoder_block_out_channels": [6, 6]}
    theirs = randomized(diffusers.AutoencoderTiny(latent_channels=5, **blocks, **widths))
    ours = sgm.build("first_stages", vae.first_stage({"_class_name": "AutoencoderTiny", **theirs.config})).eval()
    state = {f"vae.{key}": value for key, value in theirs.state_dict().items()}
    pieces, unknown = expanded(vae.vae_rules(state), state)
    assert unknown == []
    weights = translated(pieces, state)
    ours.load_state_dict({key.removeprefix("first_stage_model."): value for key, value in weights.items()})
    z = ours.encode(images())
    torch.testing.assert_close(z, theirs.encode(images()).latents, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.decode(z), theirs.decode(z).sample, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"down_block_types": ["AttnDownEncoderBlock2D"]}, "AttnDownEncoderBlock2D"),
        ({"use_quant_conv": False}, "one of two quant_convs"),
        ({"act_fn": "relu"}, "relu"),
        ({"_class_name": "AutoencoderDC"}, "AutoencoderDC"),
        ({"_class_name": "AutoencoderTiny", "encoder_block_out_channels": [64, 32, 64, 64]}, "several widths"),
        ({"_class_name": "AutoencoderTiny", "act_fn": "silu"}, "act_fn silu"),
    ],
)
def test_an_autoencoder_that_no_first_stage_is_is_refused(told, expected):
    with pytest.raises(SgmError, match=rf"vae/config.json.*{expected}"):
        vae.first_stage(told)
