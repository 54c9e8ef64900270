"""Pipelines of engines that were not loaded from a file."""

import lightning as L
import pytest
import torch
from safetensors.torch import save_file

import sgm_core as sgm
from sgm_core.config.recipes import recipe_of
from sgm_core.errors import SgmError
from sgm_plugins.tools.widths.widths import latent_channels

DIGITS = [
    "model.network.channel_mult=[1]",
    "model.sampler.num_steps=2",
    "model.latent_shape=[1,8,8]",
]


def digits(*overrides):
    torch.manual_seed(0)
    engine = sgm.build_engine(sgm.load_config("digits", overrides=[*DIGITS, *overrides]))
    for parameter in engine.model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return engine


def test_an_engine_of_classes_draws_as_it_does_itself_with_the_averaged_weights():
    engine = digits()
    engine.model_ema.track(engine.trained_parameters())
    for parameter in engine.trained_parameters().values():
        parameter.data.add_(0.05)
    expected = engine.generate({"cls": [3, 7]}, seed=4)
    pictures = sgm.Pipeline(engine)(cond={"cls": [3, 7]}, seeds=4)
    assert torch.equal(torch.stack([picture.image for picture in pictures]), expected)
    assert pictures[0].image.shape == (1, 8, 8)
    assert pictures[0].frames[0].mode == "L"


def test_image_to_image_and_inpainting_are_for_any_model():
    pipe = sgm.Pipeline(digits())
    image = torch.linspace(-1, 1, 64).view(1, 8, 8)
    (same,) = pipe(cond={"cls": [3]}, init_image=image, strength=0.0)
    assert torch.equal(same.image, image)  # of a first stage that changes nothing


def test_a_first_stage_behind_a_cache_is_the_first_stage(tmp_path):
    plain, cached = (digits(*more) for more in ((), ("model.cache_latents=true", f"cache.dir={tmp_path}")))
    drawn = [sgm.Pipeline(engine)(cond={"cls": [3]})[0].image for engine in (plain, cached)]
    assert torch.equal(*drawn)


def test_other_engines_draw_nothing():
    with pytest.raises(SgmError, match="LightningModule draws no images"):
        sgm.Pipeline(L.LightningModule())


def test_tiles_are_for_first_stages_that_know_them():
    with pytest.raises(SgmError, match="IdentityFirstStage decodes all at once"):
        sgm.Pipeline(digits())(cond={"cls": [3]}, tile=4)


def test_a_model_whose_shape_is_unknown_says_so():
    with pytest.raises(SgmError, match=r"latent_shape is not known: set it in the config, or give a size \(--size\)"):
        sgm.Pipeline(digits("model.latent_shape=null"))(cond={"cls": [3]})


def test_a_size_is_enough_where_the_shape_is_unknown():
    drawn = sgm.Pipeline(digits())(cond={"cls": [3]}, size=(16, 8))
    without = sgm.Pipeline(digits("model.latent_shape=null"))(cond={"cls": [3]}, size=(16, 8))
    assert without[0].image.shape == (1, 8, 16)
    assert torch.equal(without[0].image, drawn[0].image)


def test_the_channels_are_those_of_the_network_without_what_embedders_give_beside():
    engine = digits(
        "model.latent_shape=null",
        "model.network.in_channels=4",
        "model.network.out_channels=1",
        "model.conditioner.embedders=[{input_key: cls, embedder: {use: class, embed_dim: 128, n_classes: 10}}, "
        "{input_key: mask, output: concat, embedder: identity}]",
    )
    with pytest.raises(SgmError, match="latent_shape is not known"):  # how many the mask has is not declared
        sgm.Pipeline(engine)(cond={"cls": [3]}, size=(8, 8))
    assert latent_channels(recipe_of(digits("model.latent_shape=null"))) == 1


def test_a_plain_model_file_draws_with_a_config_and_a_size(tmp_path, capsys):
    from sgm_core.cli.app import main

    save_file(digits().state_dict(), tmp_path / "plain.safetensors")
    config = tmp_path / "config.yaml"
    config.write_text("extends: digits\nmodel: {network: {channel_mult: [1]}, sampler: {num_steps: 2}}\n")
    command = ["sample", str(tmp_path / "plain.safetensors"), "--config", str(config), "--cond", "cls=3"]
    assert main([*command, "--size", "8x8", "--out", str(tmp_path / "out")]) == 0
    assert [file.suffix for file in (tmp_path / "out").glob("*0000*")]
    capsys.readouterr()
    assert main([*command, "--out", str(tmp_path / "more")]) == 1
    assert "model.latent_shape is not known: set it in the config, or give a size (--size)" in capsys.readouterr().err
