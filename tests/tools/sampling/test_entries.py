"""What a conditioner is given for a recipe."""

import math

import pytest
import torch

from sgm_core.errors import SgmError
from sgm_plugins.tools.sampling.entries import check_options, entries_of
from sgm_plugins.tools.sampling.recipe import Recipe

SDXL = ("txt", "original_size_as_tuple", "crop_coords_top_left", "target_size_as_tuple")
SVD = ("cond_frames_without_noise", "fps_id", "motion_bucket_id", "cond_frames", "cond_aug")
SV3D = ("cond_frames_without_noise", "cond_frames", "cond_aug", "polars_rad", "azimuths_rad")


def clip(keys, frames, **fields):
    recipe = Recipe("x", init="x.png", **({"seeds": (0, 1)} | fields))
    generators = [torch.Generator().manual_seed(seed) for seed in recipe.seeds]
    image = torch.linspace(-1, 1, 12).view(3, 2, 2)
    return image, entries_of(recipe, keys, (2, 2), frames=frames, image=image, generators=generators)[0]


def test_sizes_are_height_and_width_of_the_picture():
    recipe = Recipe("x", prompts=("a", "b"), seeds=(0, 1, 2), negative="c")
    batch, away = entries_of(recipe, SDXL, (640, 512))
    assert batch["txt"] == ["a", "b", "a"]
    assert away["txt"] == ["c", "c", "c"]
    for entries in (batch, away):
        assert entries["original_size_as_tuple"].tolist() == [[512, 640]] * 3
        assert entries["target_size_as_tuple"].tolist() == [[512, 640]] * 3
        assert entries["crop_coords_top_left"].tolist() == [[0, 0]] * 3


def test_guidance_moves_away_from_a_low_score_unless_one_is_given():
    batch, away = entries_of(Recipe("x", prompts=("a",)), ("txt", "aesthetic_score"), (8, 8))
    assert (batch["aesthetic_score"].tolist(), away["aesthetic_score"].tolist()) == ([6.0], [2.5])
    given = Recipe("x", prompts=("a",), cond={"aesthetic_score": [4]})
    batch, away = entries_of(given, ("txt", "aesthetic_score"), (8, 8))
    assert (batch["aesthetic_score"].tolist(), away["aesthetic_score"].tolist()) == ([4], [4])


@pytest.mark.parametrize("key", ["txt", "caption", "prompt", "text"])
def test_a_prompt_is_the_entry_of_that_name(key):
    batch, _ = entries_of(Recipe("x", prompts=("a",), cond={"cls": [3]}), ("cls", key), (8, 8))
    assert (batch[key], batch["cls"].tolist()) == (["a"], [3])


def test_what_is_missing_is_said_as_the_option_that_gives_it():
    with pytest.raises(SgmError, match="--cond cls=VALUE, --prompt TEXT"):
        entries_of(Recipe("x"), ("cls", "txt"), (8, 8))
    with pytest.raises(SgmError, match=r"--cond cl: .*Did you mean 'cls'"):
        check_options(Recipe("x", cond={"cl": [1]}), ("cls",))


def test_a_clip_has_a_number_for_each_frame_and_one_image():
    image, entries = clip(SVD, 3, fps=10, motion_bucket=40, cond_aug=0.0)
    assert entries["fps_id"].tolist() == [9.0] * 6
    assert entries["motion_bucket_id"].tolist() == [40.0] * 6
    assert entries["cond_aug"].tolist() == [0.0] * 6
    assert torch.equal(entries["cond_frames_without_noise"], image.expand(2, 3, 2, 2))
    assert torch.equal(entries["cond_frames"], image.expand(2, 3, 2, 2))
    _, entries = clip(SVD, 3, cond={"motion_bucket_id": [1, 2]})
    assert entries["motion_bucket_id"].tolist() == [1, 1, 1, 2, 2, 2]


def test_the_noise_in_the_image_has_the_level_that_the_model_is_told_and_comes_from_the_seed():
    image, entries = clip(SVD, 2, cond_aug=0.5)
    noise = [torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    torch.testing.assert_close(entries["cond_frames"], image + 0.5 * torch.stack(noise))
    assert entries["cond_aug"].tolist() == [0.5] * 4
    assert clip(SVD, 2)[1]["cond_aug"].tolist() == pytest.approx([0.02] * 4)
    assert clip(SV3D, 2)[1]["cond_aug"].tolist() == pytest.approx([1e-5] * 4)


def test_angles_are_those_of_a_camera_that_ends_where_the_image_was_taken():
    _, entries = clip(SV3D, 4)
    assert entries["polars_rad"].tolist() == pytest.approx([math.radians(80)] * 8)
    assert entries["azimuths_rad"].tolist() == pytest.approx([math.pi / 2, math.pi, 3 * math.pi / 2, 0] * 2)
    _, entries = clip(SV3D, 2, elevations=(0.0, 90.0), azimuths=(350.0, 10.0))
    assert entries["polars_rad"].tolist() == pytest.approx([math.pi / 2, 0] * 2)
    assert entries["azimuths_rad"].tolist() == pytest.approx([math.radians(340), 0] * 2)
