"""Stable Diffusion 1.5: the keys of the public model, and the pictures that diffusers draws."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from support.key_tables import engine
from support.recognised import models_of
from support.tiny_public_models import tiny_config, write_checkpoint
from support.tiny_transformers import write_clip

import sgm_core as sgm
from sgm_core.checkpoints.family import expanded
from sgm_core.cli.app import main
from sgm_plugins.families.sd_1 import StableDiffusion1
from sgm_plugins.families.stable_diffusion import BARE

transformers = pytest.importorskip("transformers")
diffusers = pytest.importorskip("diffusers")

UNET = {
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
}


def test_in_full_size_each_weight_is_one_of_diffusers_and_of_its_shape():
    """Its U-Net, autoencoder and CLIP ViT-L, by the numbers that its public folder has in its config.json files."""
    text = transformers.CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, projection_dim=768
    )
    with torch.device("meta"):
        parts = {
            "unet": diffusers.UNet2DConditionModel(**UNET),
            "vae": diffusers.AutoencoderKL(**VAE),
            "text_encoder": transformers.CLIPTextModel(text),
        }
    theirs = {
        f"{part}.{key}": [n for n in value.shape if n != 1]
        for part, module in parts.items()
        for key, value in module.state_dict().items()
        if not key.endswith("position_ids")
    }
    family = StableDiffusion1()
    pieces, unknown = expanded(family.rules("diffusers", theirs), theirs)
    ours = {key: [n for n in value.shape if n != 1] for key, value in engine("sd_1_5").state_dict().items()}
    ours.pop("denoiser.sigmas")
    assert unknown == []
    assert {piece.ours: theirs[piece.theirs] for piece in pieces} == ours
    assert sum(p.numel() for p in engine("sd_1_5").model.parameters()) == 859_520_964


def test_it_is_known_by_its_keys_in_each_form():
    ours = {key: tuple(value.shape) for key, value in engine("sd_1_5").state_dict().items()}
    family = StableDiffusion1()
    network = {key: shape for key, shape in ours.items() if key.startswith("model.diffusion_model.")}
    latent = {p.theirs: ours[p.ours] for p in expanded(family.rules("ldm", ours), ours, back=True)[0]}
    bare = {p.theirs: ours[p.ours] for p in expanded(family.rules(BARE.name, ours), network, back=True)[0]}
    assert "cond_stage_model.transformer.text_model.final_layer_norm.weight" in latent
    for shapes in (ours, latent, network, bare):
        assert [model.config for model in models_of(shapes)] == ["sd_1_5"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A pipeline of diffusers with random weights, as it saves itself; a tokenizer of letters."""
    root = tmp_path_factory.mktemp("sd_1_5")
    clip = write_clip(root / "clip", "quick_gelu")
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=2,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        sample_size=16,
    )
    pipeline = diffusers.StableDiffusionPipeline(
        unet=unet,
        vae=vae,
        text_encoder=transformers.CLIPTextModel.from_pretrained(clip),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(clip),
        scheduler=diffusers.EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="trailing"
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(root / "folder")
    (root / "tiny.yaml").write_text(tiny_config("sd_1_5", clip).to_yaml())
    return root / "folder"


@pytest.fixture(scope="module")
def file(folder) -> Path:
    """The folder as one file of ours."""
    out = folder.parent / "ours.safetensors"
    command = ["convert", "checkpoint", str(folder), "--out", str(out), "--config", str(folder.parent / "tiny.yaml")]
    assert main(command) == 0
    return out


def test_the_converted_folder_draws_the_picture_of_diffusers(folder, file):
    steps, scale, prompt = 5, 4.0, "a lighthouse"
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(3))
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    theirs.scheduler.set_timesteps(steps)
    sigma = theirs.scheduler.sigmas[0]
    assert sigma > 10
    expected = theirs(
        prompt,
        negative_prompt="",
        latents=noise * (1 + sigma**2).sqrt() / sigma,  # ours has the variance of the data, too
        num_inference_steps=steps,
        guidance_scale=scale,
        output_type="pt",
    ).images
    pipe = sgm.Pipeline.load(file)
    picture = pipe(prompt, seeds=[3], steps=steps, scale=scale, sampler="euler_edm")[0]
    difference = (picture.image - (expected[0] * 2 - 1)).abs().max()
    assert difference < 1e-4
    assert picture.image.std() > 0.01
    plain = pipe(prompt, seeds=[3], steps=steps, scale=1.0, sampler="euler_edm")[0]
    assert (plain.image - picture.image).abs().max() > 1e-2


def test_the_folder_that_is_written_holds_the_same_tensors_and_settings(folder, file, tmp_path):
    assert main(["convert", "checkpoint", str(file), "--out", str(tmp_path / "back")]) == 0
    for part in ("unet", "vae", "text_encoder"):
        stem = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        one, other = (load_file(root / part / f"{stem}.safetensors") for root in (folder, tmp_path / "back"))
        prefix = "" if part != "text_encoder" or any(k.startswith("text_model.") for k in one) else "text_model."
        one = {prefix + key: value for key, value in one.items() if not key.endswith("position_ids")}
        assert one.keys() == other.keys()
        assert all(torch.equal(value, other[key]) for key, value in one.items())
    again = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "back", safety_checker=None)
    assert again.unet.config.attention_head_dim in (2, [2, 2])
    assert not again.unet.config.use_linear_projection


def test_its_file_in_the_layout_of_latent_diffusion_draws(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_checkpoint("sd_1_5", tmp_path, with_config=False)
    weights = load_file(path)
    latent = tmp_path / "latent.safetensors"
    command = ["convert", "checkpoint", str(path), "--config", str(path.with_suffix(".yaml"))]
    assert main([*command, "--out", str(latent), "--to", "ldm"]) == 0
    renamed = load_file(latent)
    text = "transformer.text_model.final_layer_norm.weight"
    assert torch.equal(renamed[f"cond_stage_model.{text}"], weights[f"conditioner.embedders.0.{text}"])
    old = {**renamed, "alphas_cumprod": torch.ones(1000), "betas": torch.zeros(1000)}
    save_file(old, tmp_path / "old.safetensors")
    options = ["--config", str(path.with_suffix(".yaml")), "--prompt", "a cat", "--steps", "2", "--seed", "4"]
    pixels = []
    for name, model in (("one", path), ("other", tmp_path / "old.safetensors")):
        assert main(["sample", str(model), *options, "--out", name]) == 0
        pixels.append(Image.open(Path(name, "seed-000004.png")).tobytes())
    assert pixels[0] == pixels[1]
    assert len(set(pixels[0])) > 10
