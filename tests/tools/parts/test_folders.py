"""A folder of diffusers is a model: it draws what its pipeline draws."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support import tiny_pipelines as tiny
from support.networks import draw
from torch import Tensor

import sgm_core as sgm
from sgm_core.cli.app import main
from sgm_core.errors import SgmError
from sgm_core.files import BadFileError
from sgm_plugins.tools.parts.folder import places_of

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

PROMPTS = ["a cat", "my dog"]


def theirs(pipe: Any, noise: Tensor, **more: Any) -> Tensor:
    """The pictures of a pipeline of diffusers, in [-1, 1]."""
    sizes = {"height": 16, "width": 16, "num_inference_steps": 6, "guidance_scale": 3.0}
    pictures: Tensor = pipe(PROMPTS, latents=noise.clone(), output_type="pt", **{**sizes, **more}).images
    return pictures * 2 - 1


def ours(folder: Path, noise: Tensor, **more: Any) -> Tensor:
    pipe = sgm.Pipeline.load(folder)
    drawn = pipe(PROMPTS, noise=noise, **{"steps": 6, "scale": 3.0, "size": (16, 16), **more})
    return torch.stack([picture.image for picture in drawn])


def same(a: Tensor, b: Tensor) -> None:
    assert b.std() > 0.2  # no flat picture, in which nothing would show
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [tiny.sd_1, tiny.sd_2, tiny.sd_xl], ids=lambda make: make.__name__)
def test_it_draws_what_the_pipeline_draws(make: Callable[..., Any], tmp_path: Path) -> None:
    pipe, noise = make(tmp_path), draw(2, 4, 8, 8)
    same(ours(tmp_path, noise), theirs(pipe, noise))
    same(ours(tmp_path, noise, negative="no bird"), theirs(pipe, noise, negative_prompt=["no bird"] * 2))
    same(ours(tmp_path, noise, scale=1.0), theirs(pipe, noise, guidance_scale=1.0))


@pytest.mark.parametrize(
    "scheduler",
    [
        ("DDIMScheduler", {"set_alpha_to_one": False, "clip_sample": False}),
        ("DDIMScheduler", {"set_alpha_to_one": True, "clip_sample": False, "timestep_spacing": "trailing"}),
        ("EulerDiscreteScheduler", {"timestep_spacing": "leading", "steps_offset": 1}),
        ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
    ],
    ids=str,
)
def test_it_draws_as_its_scheduler_says(scheduler: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    name, options = scheduler
    pipe = tiny.sd_1(tmp_path, getattr(diffusers, name)(**tiny.beta_schedule(**options)))
    noise = draw(2, 4, 8, 8)
    # their trailing timesteps are where each step begins, but it ends 1000 // steps below: the same for 5 steps
    same(ours(tmp_path, noise, steps=5), theirs(pipe, noise, num_inference_steps=5))


def test_without_a_negative_prompt_xl_moves_away_from_what_its_folder_says(tmp_path: Path) -> None:
    noise = draw(2, 4, 8, 8)
    pipe = tiny.sd_xl(tmp_path, zeros=False)
    found = theirs(pipe, noise)
    same(ours(tmp_path, noise), found)
    index = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps({**index, "force_zeros_for_empty_prompt": True}))
    assert (ours(tmp_path, noise) - found).abs().max() > 1e-3


def test_a_scheduler_without_a_counterpart_is_told(tmp_path: Path) -> None:
    tiny.sd_1(tmp_path)
    told = {"_class_name": "TomorrowsScheduler"}
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(told))
    with pytest.warns(UserWarning, match=r"TomorrowsScheduler.*Drawn with euler_edm instead"):
        sgm.Pipeline.load(tmp_path)


def test_noise_stands_in_the_recipe_by_its_digest_and_has_the_shape_of_the_grid(tmp_path: Path) -> None:
    tiny.sd_1(tmp_path)
    pipe = sgm.Pipeline.load(tmp_path)
    one, other = (
        pipe("a cat", noise=draw(1, 4, 8, 8, seed=seed), steps=1, size=(16, 16))[0].recipe.facts for seed in (1, 2)
    )
    assert one["noise_sha256"] != other["noise_sha256"]
    with pytest.raises(SgmError, match=r"noise is \(1, 4, 8, 9\).*\(1, 4, 8, 8\)"):
        pipe("a cat", noise=draw(1, 4, 8, 9), size=(16, 16))
    # a batch at a time, each picture from its own
    noise = draw(3, 4, 8, 8)
    whole = pipe("a cat", noise=noise, steps=1, size=(16, 16))
    parts = pipe("a cat", noise=noise, steps=1, size=(16, 16), batch_size=2)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a.image, b.image)


def test_the_seeds_noise_is_torchs_own(tmp_path: Path) -> None:
    tiny.sd_1(tmp_path)
    pipe = sgm.Pipeline.load(tmp_path)
    noise = torch.randn((4, 8, 8), generator=torch.Generator().manual_seed(7))
    [given], [seeded] = (
        pipe("a cat", steps=1, size=(16, 16), **how) for how in ({"noise": noise[None]}, {"seeds": [7]})
    )
    assert torch.equal(given.image, seeded.image)


def test_what_is_missing_is_one_message_with_the_places(tmp_path: Path) -> None:
    tiny.sd_xl(tmp_path)
    shutil.rmtree(tmp_path / "tokenizer_2")
    with pytest.raises(SgmError, match=r"lacks tokenizer_2: give --part tokenizer_2=PATH"):
        sgm.Pipeline.load(tmp_path)
    with pytest.raises(SgmError, match="no such file or folder"):
        sgm.Pipeline.load(tmp_path, parts={"vae": tmp_path / "nowhere"})


def test_a_text_encoder_of_another_width_is_named_with_both_widths(tmp_path: Path) -> None:
    tiny.sd_1(tmp_path / "one")
    tiny.sd_2(tmp_path / "two")
    with pytest.raises(SgmError, match=r"text_encoder \(.*two.*\) gives texts of width 40, and the network reads 32"):
        sgm.Pipeline.load(tmp_path / "one", parts={"text_encoder": tmp_path / "two" / "text_encoder"})


@pytest.mark.parametrize("change", [{"block_out_channels": None}, {"block_out_channels": "wide"}, {"sample_size": [8]}])
def test_a_config_json_that_makes_no_sense_is_told(change: dict[str, Any], tmp_path: Path) -> None:
    tiny.sd_1(tmp_path)
    file = tmp_path / "unet" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(SgmError):
        sgm.Pipeline.load(tmp_path)


def test_a_link_out_of_a_folder_of_parts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "parts" / "vae").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadFileError, match="vae"):
        places_of(tmp_path / "parts")


def test_a_model_that_no_family_knows_is_named(tmp_path: Path) -> None:
    tiny.sd_1(tmp_path)
    unet = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    from safetensors.torch import save_file

    save_file({"strange.weight": torch.zeros(2)}, unet)
    index = json.loads((tmp_path / "model_index.json").read_text())
    index |= {"_class_name": "TomorrowPipeline", "unet": ["diffusers", "TomorrowModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(SgmError, match=r"no installed family knows TomorrowPipeline.*unet: TomorrowModel"):
        sgm.Pipeline.load(tmp_path)


def test_the_command_takes_a_folder_parts_and_references(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.flux(tmp_path / "kontext", "FluxKontextPipeline")
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 30), (200, 30, 30)).save("photo.png")
    how = ["--prompt", "a cat", "--steps", "1", "--size", "16x16"]
    monkeypatch.setattr("sgm_plugins.families.flux.FluxKontext.reference_sizes", ((32, 24), (24, 32)))
    assert main(["sample", "kontext", *how, "--out", "plain"]) == 0
    assert main(["sample", "kontext", *how, "--out", "edited", "--reference", "photo.png"]) == 0
    plain, edited = (Path(out, "seed-000000.png").read_bytes() for out in ("plain", "edited"))
    assert plain != edited
    # a file of the network, its parts by name and the rest of a folder
    assert main(["convert", "checkpoint", "kontext", "--out", "net.safetensors", "--to", "original"]) == 0
    parts = ["--part", "kontext", "--part", "vae=kontext/vae"]
    assert main(["sample", "net.safetensors", *how, "--out", "parts", *parts]) == 0
    drawn = [np.asarray(Image.open(Path(out, "seed-000000.png"))).astype(int) for out in ("plain", "parts")]
    assert abs(drawn[0] - drawn[1]).max() <= 1
    capsys.readouterr()
    # files that a recipe names are read only if they are named again
    for options, words in (([], "parts of its own"), (parts, None)):
        code = main(["sample", "net.safetensors", "--like", "parts/seed-000000.png", "--out", "again", *options])
        assert code == (1 if words else 0)
        assert words is None or words in capsys.readouterr().err
