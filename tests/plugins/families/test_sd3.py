"""Stable Diffusion 3 and 3.5: the folders that diffusers saves draw here what their pipelines draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import tiny_pipelines as tiny
from support.networks import draw

import sgm_core as sgm
from sgm_core.checkpoints.family import expanded
from sgm_core.checkpoints.pieces import translated
from sgm_core.checkpoints.recognise import recognise
from sgm_core.cli.app import main
from sgm_core.errors import SgmError
from sgm_plugins.families.sd3 import StableDiffusion3
from sgm_plugins.tools.inspect.inspection import inspect

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

NEW = {"qk_norm": "rms_norm", "dual_attention_layers": (0, 1)}


def ours(model: Path, noise: torch.Tensor, parts: Any = None, **more: Any) -> torch.Tensor:
    pipe = sgm.Pipeline.load(model, parts=parts)
    size = (2 * noise.shape[3], 2 * noise.shape[2])
    drawn = pipe(["a cat", "my dog"], noise=noise, **{"steps": 4, "scale": 3.0, "size": size, **more})
    return torch.stack([picture.image for picture in drawn])


@pytest.mark.parametrize("options", [{}, NEW, {"with_t5": False}, {"with_t5": False, **NEW}], ids=str)
def test_a_folder_draws_what_its_pipeline_draws(options: dict[str, Any], tmp_path: Path) -> None:
    pipe, noise = tiny.sd_3(tmp_path / "folder", **options), draw(2, 4, 8, 12)
    call = {"num_inference_steps": 4, "height": 16, "width": 24, "output_type": "pt"}
    for scale, negative in ((3.0, None), (1.0, None), (3.0, "no bird")):
        expected = pipe(
            ["a cat", "my dog"],
            negative_prompt=None if negative is None else [negative] * 2,
            guidance_scale=scale,
            latents=noise.clone(),
            **call,
        ).images
        assert expected.std() > 0.1
        found = ours(tmp_path / "folder", noise, scale=scale, negative=negative)
        torch.testing.assert_close(found, expected * 2 - 1, rtol=1e-4, atol=1e-4)
    assert inspect(tmp_path / "folder").families == ["sd3"]


def test_a_file_of_its_authors_draws_with_parts_from_elsewhere(tmp_path: Path) -> None:
    tiny.sd_3(tmp_path / "folder", **NEW)
    weights = {
        f"{part}.{key}": value
        for part in ("transformer", "vae")
        for key, value in load_file(tmp_path / "folder" / part / "diffusion_pytorch_model.safetensors").items()
    }
    pieces, unknown = expanded(StableDiffusion3().rules("diffusers", weights), weights)
    assert unknown == []
    original = {key: value.contiguous() for key, value in translated(pieces, weights).items()}
    assert any(key.startswith("first_stage_model.decoder.up.") for key in original)
    save_file(original, tmp_path / "original.safetensors")
    save_file(
        {
            key.removeprefix("model.diffusion_model."): value
            for key, value in original.items()
            if key.startswith("model.")
        },
        tmp_path / "comfy.safetensors",
    )
    noise = draw(2, 4, 8, 8)
    expected = ours(tmp_path / "folder", noise)
    for name, form in (("original", "original"), ("comfy", "comfy")):
        file = tmp_path / f"{name}.safetensors"
        assert inspect(file).layout.name == form
        torch.testing.assert_close(ours(file, noise, parts=tmp_path / "folder"), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(SgmError, match="lacks vae, text_encoder, tokenizer, text_encoder_2, tokenizer_2"):
        sgm.Pipeline.load(tmp_path / "comfy.safetensors")


@pytest.mark.parametrize("model", StableDiffusion3.models, ids=lambda model: model.title)
def test_a_published_model_is_known_by_its_shapes(model: Any) -> None:
    prefix = "model.diffusion_model."
    shapes = {key: shape for key, shape in model.shapes.items() if shape is not None}
    shapes |= {f"{prefix}joint_blocks.0.x_block.mlp.fc1.weight": (1, 1)}
    (claim, *_) = [claim for claim in recognise(shapes) if claim.name == "sd3"]
    assert claim.form is not None
    assert claim.form.name == "original"
    assert [found.title for found in claim.models] == [model.title]


@pytest.mark.parametrize("options", [NEW, {"with_t5": False}], ids=str)
def test_a_folder_becomes_one_file_and_a_folder_again(options: dict[str, Any], tmp_path: Path) -> None:
    pipe = tiny.sd_3(tmp_path / "folder", **options)
    for source, target in (("folder", "own.safetensors"), ("own.safetensors", "back")):
        assert main(["convert", "checkpoint", str(tmp_path / source), "--out", str(tmp_path / target)]) == 0
    for file in sorted((tmp_path / "folder").glob("*/*.safetensors")):
        before, after = load_file(file), load_file(tmp_path / "back" / file.relative_to(tmp_path / "folder"))
        assert sorted(key.removeprefix("text_model.") for key in before) == sorted(
            key.removeprefix("text_model.") for key in after
        )
        bare = {key.removeprefix("text_model."): value for key, value in after.items()}
        assert all(torch.equal(bare[key.removeprefix("text_model.")], value) for key, value in before.items())
    import diffusers

    left_out = {} if "with_t5" not in options else {"text_encoder_3": None, "tokenizer_3": None}
    again = diffusers.StableDiffusion3Pipeline.from_pretrained(tmp_path / "back", **left_out)
    noise = draw(1, 4, 8, 8)
    call = {"num_inference_steps": 2, "height": 16, "width": 16, "output_type": "pt", "guidance_scale": 3.0}
    torch.testing.assert_close(
        again("a cat", latents=noise.clone(), **call).images, pipe("a cat", latents=noise.clone(), **call).images
    )


def test_the_original_file_goes_to_diffusers_and_back_bit_for_bit(tmp_path: Path) -> None:
    tiny.sd_3(tmp_path / "folder")  # without norms of queries, whose width would tell that of a head
    steps = (("folder", "original.safetensors", "original"), ("original.safetensors", "comfy.safetensors", "comfy"))
    for source, target, to in (*steps, ("comfy.safetensors", "back", "diffusers")):
        assert main(["convert", "checkpoint", str(tmp_path / source), "--out", str(tmp_path / target), "--to", to]) == 0
    file = "transformer/diffusion_pytorch_model.safetensors"
    before, after = load_file(tmp_path / "folder" / file), load_file(tmp_path / "back" / file)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
