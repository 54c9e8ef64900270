"""Pipelines of engines that were not loaded from a file."""

import lightning as L
import pytest
import torch

import sgm_core as sgm
from sgm_core.errors import SgmError

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
    with pytest.raises(SgmError, match="latent_shape"):
        sgm.Pipeline(digits("model.latent_shape=null"))(cond={"cls": [3]})
