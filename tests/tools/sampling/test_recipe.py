"""Recipes as data: what they refuse, and that nothing is lost on the way through a file."""

import re
import subprocess
import sys
from dataclasses import fields, replace

import pytest
from PIL import Image

from sgm_core.errors import SgmError
from sgm_plugins.tools.sampling.png import save_png
from sgm_plugins.tools.sampling.recipe import Recipe
from sgm_plugins.tools.sampling.record import read_recipe

FULL = Recipe(
    model="runs/a",
    config="sd_xl_base",
    dtype="bf16",
    seeds=(3, 2**63 - 1),
    prompts=("ein grüner Löwe", "猫\n\"quoted\""),
    negative="",
    cond={"crop_coords_top_left": [[1, 2]], "cls": [3, 4]},
    size=(1024, 768),
    steps=20,
    sampler={"use": "euler_edm", "s_tmax": float("inf")},
    discretization="edm",
    guider={"use": "cfg", "scale": 2.0},
    scale=6.5,
    init="photo.png",
    strength=0.0,
    mask="mask.png",
    refiner="refiner.safetensors",
    refiner_start=1.0,
    frames=14,
    fps=7,
    motion_bucket=127,
    cond_aug=0.0,
    elevations=(10.0,),
    azimuths=(0.0, 180.0),
    tile=64,
    loras=("a.safetensors", "runs/b:0.5"),
    reference=("photo.png",),
    parts={"": "folder", "vae": "vae.safetensors"},
    watermark="sgm",
    raw=True,
    facts={"torch": "2.0", "components": [["samplers", "euler_edm", "sgm-core", "0.1.0"]]},
)  # fmt: skip


def test_every_field_comes_back_from_a_file(tmp_path):
    assert all(getattr(FULL, field.name) != field.default for field in fields(Recipe) if field.name != "model")
    save_png(Image.new("RGB", (2, 2)), tmp_path / "a.png", FULL.to_json(1))
    assert read_recipe(tmp_path / "a.png") == (FULL, 1)
    assert Recipe.from_json(Recipe("x").to_json(0)) == (Recipe("x"), 0)
    assert Recipe.from_json(replace(Recipe("x"), negative="").to_json(0))[0].negative == ""  # is not None


def test_a_recipe_needs_no_torch():
    tool = "sgm_plugins.tools.sampling"
    code = f"import sys, {tool}.recipe, {tool}.record; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_part_has_what_its_pictures_have_in_the_whole():
    recipe = Recipe("x", seeds=(5, 6, 7, 8), prompts=("a", "b", "c"), cond={"cls": [1, 2]})
    part = recipe.part(1, 4)
    assert (part.seeds, part.prompts, part.cond) == ((6, 7, 8), ("b", "c", "a"), {"cls": [2, 1, 2]})
    assert recipe.part(3, 9).seeds == (8,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "fp8"}, "fp32, bf16, fp16"),
        ({"seeds": ()}, "how many"),
        ({"seeds": (-1,)}, "seeds are 0"),
        ({"cond": {"cls": []}}, "cls: an empty list"),
        ({"cond": {"cls": [1, 2, 3]}}, "only 2 pictures"),
        ({"frames": 0}, "frames is 0"),
        ({"tile": 0}, "tile is 0"),
        ({"size": (0, 8)}, "width and height"),
        ({"strength": -0.1}, "strength is -0.1"),
        ({"refiner_start": 1.1}, "refiner_start is 1.1"),
        ({"cond_aug": -1.0}, "cond_aug is -1.0"),
        ({"init": None}, "a mask"),
        ({"init": None, "mask": None}, "strength"),
        ({"refiner": None}, "refiner_start"),
    ],
    ids=str,
)
def test_what_no_model_could_draw_is_refused(change, message):
    with pytest.raises(SgmError, match=re.escape(message)):
        replace(FULL, **change)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"model": "x"}', "cannot be read"),
        ('{"index": 0}', "cannot be read"),
        ('{"index": 1, "model": "x"}', "of 1 pictures"),
        ('{"index": 0, "model": "x", "promptz": []}', "Did you mean 'prompts'"),
        ('{"index": 0, "model": "x", "seeds": 3}', "cannot be read"),
        ('{"index": 0, "model": "x", "steps": 0}', "steps is 0"),
    ],
)
def test_what_is_no_recipe_is_said_with_the_file(tmp_path, text, message):
    save_png(Image.new("L", (2, 2)), tmp_path / "a.png", text)
    with pytest.raises(SgmError, match=re.escape(message)) as caught:
        read_recipe(tmp_path / "a.png")
    assert str(caught.value).startswith(str(tmp_path / "a.png"))


def test_a_file_that_is_no_picture_has_no_recipe(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(SgmError, match="not a readable picture"):
        read_recipe(tmp_path / "a.png")


def test_differences_are_those_of_what_is_installed_and_of_the_files():
    facts = {"model_sha256": "a" * 64, "torch": "2.0", "size": [1, 1], "components": [["a", "x", "d", "1"]]}
    then = replace(Recipe("x"), facts=facts)
    assert then.differences(facts) == []
    assert then.differences({**facts, "size": [2, 2]}) == []
    assert then.differences({**facts, "model_sha256": "b" * 64}) == [
        "model_sha256 was aaaaaaaaaaaa, and is bbbbbbbbbbbb here"
    ]
    assert then.differences({**facts, "components": [["a", "x", "d", "2"]]}) == ["d was 1, and is 2 here"]
    assert then.differences({**facts, "components": []}) == ["a 'x' of d 1 takes no part here"]
    assert then.named_as_here(Recipe("moved", facts=facts)).model == "x"
    assert then.named_as_here(Recipe("moved", facts={"model_sha256": "c"})).model == "moved"
