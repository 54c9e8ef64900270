import pytest
import torch
from support.autoencoders import SMALL, images, randomized

from sgm_plugins.autoencoding.encoder import Encoder


@pytest.mark.parametrize(("levels", "size"), [(1, 16), (2, 8), (3, 4)])
def test_each_level_but_the_last_halves_the_size(levels, size):
    encoder = Encoder(ch=32, ch_mult=[1] * levels, num_res_blocks=1, z_channels=5)
    assert encoder.factor == 16 // size
    assert encoder(images()).shape == (2, 10, size, size)
    assert Encoder(**SMALL, double_z=False)(images(size=15)).shape == (2, 4, 7, 7)


def test_samples_of_a_batch_do_not_see_each_other():
    encoder, x = randomized(Encoder(**SMALL)), images()
    torch.testing.assert_close(encoder(x)[:1], encoder(x[:1]), rtol=1e-5, atol=1e-5)


def test_every_parameter_matters():
    encoder = randomized(Encoder(**SMALL, attn_resolutions=[128]))
    encoder(images()).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in encoder.parameters())


@pytest.mark.parametrize(
    ("attn_type", "keys"),
    [
        ("vanilla", {"norm.weight", "norm.bias", "q.weight", "k.weight", "v.weight", "proj_out.weight"}),
        ("linear", {"to_qkv.weight", "to_out.weight"}),
        ("none", set()),
    ],
)
def test_attention_is_of_the_type_that_was_asked_for(attn_type, keys):
    """B35: never quietly another one, where a type is not known or not installed."""
    encoder = Encoder(**SMALL, attn_resolutions=[256], attn_type=attn_type)
    for place in ("mid.attn_1.", "down.0.attn.0."):
        found = {key.removeprefix(place) for key in encoder.state_dict() if key.startswith(place)}
        assert found - {"q.bias", "k.bias", "v.bias", "proj_out.bias", "to_out.bias"} == keys
    assert not [key for key in encoder.state_dict() if key.startswith("down.1.attn")]
    assert encoder(images()).isfinite().all()


def test_an_unknown_attention_is_refused():
    """B35: without xformers it was built, and failed in the first forward pass."""
    with pytest.raises(ValueError, match="vanilla-xformers"):
        Encoder(**SMALL, attn_type="vanilla-xformers")


def test_dropout_acts_in_training_only():
    encoder, x = randomized(Encoder(**SMALL, dropout=0.5)), images()
    assert torch.equal(encoder(x), encoder(x))
    encoder.train()
    assert not torch.equal(encoder(x), encoder(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attn_resolutions": [8]}, r"\[8\].*\[256, 128\]"),
        ({"ch_mult": []}, "must be a level"),
        ({"num_res_blocks": 0}, "num_res_blocks 0"),
        ({"ch": 20}, "multiple of 32"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Encoder(**(SMALL | change))
