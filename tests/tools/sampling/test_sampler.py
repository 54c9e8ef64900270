"""The sampler of a recipe, as a config."""

from dataclasses import replace

import pytest

from sgm_core.errors import SgmError
from sgm_plugins.tools.sampling.recipe import Recipe
from sgm_plugins.tools.sampling.sampler import sampler_config, split

OWN = {"use": "dpmpp_2m", "num_steps": 50, "discretization": "legacy_ddpm", "guider": {"use": "cfg", "scale": 5.0}}
PLAIN = Recipe("x")


def config(**changes):
    return sampler_config(OWN, replace(PLAIN, **changes))


def test_nothing_is_changed_that_the_recipe_does_not_say():
    assert config() == OWN
    assert config(sampler="heun_edm") == OWN | {"use": "heun_edm"}
    assert config(sampler={"use": "heun_edm", "num_steps": 3}) == OWN | {"use": "heun_edm", "num_steps": 3}
    assert config(steps=7, discretization="edm") == OWN | {"num_steps": 7, "discretization": "edm"}


def test_what_is_asked_of_a_guider_reaches_the_one_that_acts_in_it():
    clip = {"use": "linear", "max_scale": 2.5, "num_frames": 14}
    inside = {**OWN, "guider": {"use": "interval", "sigma_hi": 5.0, "guider": clip}}
    changed = sampler_config(inside, replace(PLAIN, scale=4.0), frames=25)["guider"]
    assert changed == {"use": "interval", "sigma_hi": 5.0, "guider": {**clip, "max_scale": 4.0, "num_frames": 25}}
    idle = {"use": "interval", "guider": "identity"}
    with pytest.raises(SgmError, match="give scale"):
        config(negative="blurry", guider=idle)
    assert config(negative="blurry", guider=idle, scale=2.0)["guider"]["guider"] == {"use": "cfg", "scale": 2.0}


def test_scale_is_that_of_the_guider_that_there_is():
    assert config(scale=2.0)["guider"] == {"use": "cfg", "scale": 2.0}
    assert config(guider="identity", scale=2.0)["guider"] == {"use": "cfg", "scale": 2.0}
    frames = {**OWN, "guider": {"use": "linear", "max_scale": 2.5, "num_frames": 14}}
    changed = sampler_config(frames, replace(PLAIN, scale=4.0, init="x"), frames=25)
    assert changed["guider"] == {"use": "linear", "max_scale": 4.0, "num_frames": 25}
    assert changed["discretization"] == "legacy_ddpm"  # a clip is made of an image, and does not start from it
    assert sampler_config({**OWN, "guider": None}, PLAIN) == {k: v for k, v in OWN.items() if k != "guider"}


def test_strength_is_a_part_of_the_schedule():
    assert config(init="x")["discretization"] == {"use": "img2img", "discretization": "legacy_ddpm", "strength": 0.75}
    assert config(init="x", mask="m")["discretization"]["strength"] == 1.0
    assert config(init="x", strength=0.0)["discretization"]["strength"] == 0.0


def test_a_refiner_has_its_own_method_and_guidance_on_the_levels_of_the_base():
    refiner = {
        **OWN,
        "use": "euler_edm",
        "num_steps": 9,
        "discretization": "edm",
        "guider": {"use": "cfg", "scale": 3.0},
    }
    first, second = split(OWN, refiner, PLAIN)
    assert first == OWN | {"discretization": {"use": "txt2noisy", "discretization": "legacy_ddpm", "strength": 0.2}}
    assert second == {
        "use": "euler_edm",
        "num_steps": 50,
        "discretization": {"use": "img2img", "discretization": "legacy_ddpm", "strength": 0.2},
        "guider": {"use": "cfg", "scale": 3.0},
    }
    asked = replace(PLAIN, sampler="heun_edm", guider={"use": "cfg", "scale": 2.0})
    own = sampler_config(OWN, asked)
    _, second = split(own, refiner, asked)
    assert (second["use"], second["guider"]) == ("heun_edm", {"use": "cfg", "scale": 2.0})


def test_a_model_without_a_sampler_needs_one():
    with pytest.raises(SgmError, match="no sampler"):
        sampler_config(None, PLAIN)
    whole = {"use": "euler_edm", "discretization": "edm", "num_steps": 3}
    assert sampler_config(None, replace(PLAIN, sampler=whole)) == whole


PERTURBED = {"use": "perturbed", "scale": 2.0, "mode": "pag", "layers": [0]}
APG = {"use": "apg", "scale": 4.0}


def test_the_scale_of_a_stack_is_that_of_the_part_that_moves_away_from_the_negative_prompt():
    stack = {"use": "stack", "guiders": [PERTURBED, {"use": "interval", "guider": APG}, "identity"]}
    changed = config(guider=stack, scale=9.0, negative="blurry")["guider"]["guiders"]
    inside = {"use": "interval", "guider": {**APG, "scale": 9.0}}
    assert changed == [PERTURBED, inside, {"use": "identity"}]
    alone = config(guider={"use": "stack", "guiders": [PERTURBED, {**PERTURBED, "mode": "slg"}]}, scale=9.0)["guider"]
    assert [part["scale"] for part in alone["guiders"]] == [9.0, 2.0]
    rescaled = config(guider={"use": "rescale", "guider": {"use": "stack", "guiders": [PERTURBED, APG]}}, scale=9.0)
    assert [part["scale"] for part in rescaled["guider"]["guider"]["guiders"]] == [2.0, 9.0]
    for use in ("apg", "cfg_zero_star", "two_axis", "perturbed", "autoguidance"):
        assert config(guider={"use": use, "scale": 2.0}, scale=9.0)["guider"]["scale"] == 9.0


def test_guidance_away_from_a_worse_network_has_no_use_for_a_negative_prompt():
    for guider in (
        PERTURBED,
        {"use": "autoguidance", "scale": 2.0, "model": "m"},
        {"use": "stack", "guiders": [PERTURBED]},
    ):
        with pytest.raises(SgmError, match="give scale"):
            config(negative="blurry", guider=guider)
    assert config(negative="blurry", guider={"use": "stack", "guiders": [PERTURBED, APG]})
