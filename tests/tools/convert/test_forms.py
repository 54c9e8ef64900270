"""Public models in the forms of their authors, of ComfyUI and of diffusers, and the way back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from support import tiny_pipelines as tiny
from support.networks import draw

import sgm_core as sgm
from sgm_core.cli.app import main
from sgm_plugins.tools.inspect.inspection import inspect

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"


def convert(source: Path, target: Path, to: str | None = None) -> Path:
    assert main(["convert", "checkpoint", str(source), "--out", str(target), *(["--to", to] if to else [])]) == 0
    return target


@pytest.mark.parametrize("pipeline", ["FluxPipeline", "FluxKontextPipeline"])
def test_a_network_goes_through_every_form_and_back_bit_for_bit(pipeline: str, tmp_path: Path) -> None:
    made = tiny.flux(tmp_path / "folder", pipeline)
    original = convert(tmp_path / "folder", tmp_path / "original.safetensors", "original")
    assert "double_blocks.0.img_attn.qkv.weight" in load_file(original)
    comfy = convert(original, tmp_path / "comfy.safetensors", "comfy")
    assert all(key.startswith("model.diffusion_model.") for key in load_file(comfy))
    back = convert(comfy, tmp_path / "back", "diffusers")
    before, after = load_file(tmp_path / "folder" / TRANSFORMER), load_file(back / TRANSFORMER)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    again = diffusers.FluxTransformer2DModel.from_pretrained(back / "transformer")
    for key in ("axes_dims_rope", "attention_head_dim", "guidance_embeds", "num_single_layers"):
        assert again.config[key] == made.transformer.config[key] or list(again.config[key]) == list(
            made.transformer.config[key]
        )
    # what no key tells, the metadata does: the folder is of the pipeline that it came from
    assert inspect(back).families == ["flux_kontext" if "Kontext" in pipeline else "flux_dev"]
    assert [inspect(file).layout.name for file in (original, comfy)] == ["original", "comfy"]


def test_our_file_of_a_folder_of_any_size_draws_what_the_folder_draws(tmp_path: Path) -> None:
    tiny.flux(tmp_path / "folder")
    own, noise = convert(tmp_path / "folder", tmp_path / "own.safetensors"), draw(1, 4, 8, 8)
    pictures = [
        sgm.Pipeline.load(model)("a cat", noise=noise, steps=2, size=(16, 16))[0].image
        for model in (tmp_path / "folder", own)
    ]
    torch.testing.assert_close(*pictures, rtol=1e-5, atol=1e-5)


def test_the_original_file_of_stable_diffusion_has_all_of_its_parts(tmp_path: Path) -> None:
    tiny.sd_1(tmp_path / "folder")
    original = convert(tmp_path / "folder", tmp_path / "original.safetensors", "original")
    with safe_open(original, "pt") as file:
        starts = {key.partition(".")[0] for key in file.keys()}  # noqa: SIM118 - not a dict
    assert starts == {"model", "first_stage_model", "cond_stage_model"}
    comfy = convert(original, tmp_path / "comfy.safetensors", "comfy")
    before, after = load_file(original), load_file(comfy)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_network_alone_is_no_model_of_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.flux(tmp_path / "folder")
    original = convert(tmp_path / "folder", tmp_path / "original.safetensors", "original")
    assert main(["convert", "checkpoint", str(original), "--out", str(tmp_path / "own.safetensors")]) == 1
    assert "is a network alone: --to original, comfy or diffusers" in capsys.readouterr().err
