"""Z-Image: a folder that diffusers saves, drawn from by ours with the noise and the prompt of theirs; and back."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

from support.key_tables import engine as engine_on_meta  # noqa: E402
from support.networks import draw, randomized  # noqa: E402
from support.recognised import models_of  # noqa: E402
from support.tiny_transformers import write_qwen3  # noqa: E402

from sgm_core.building.fresh import build_engine  # noqa: E402
from sgm_core.checkpoints.family import Found, expanded  # noqa: E402
from sgm_core.checkpoints.layouts import NETWORK  # noqa: E402
from sgm_core.checkpoints.pieces import translated  # noqa: E402
from sgm_core.checkpoints.recognise import recognise  # noqa: E402
from sgm_core.config.api import config_from  # noqa: E402
from sgm_core.errors import SgmError  # noqa: E402
from sgm_plugins.families.z_image import ZImage  # noqa: E402

SCHEDULERS = {
    "turbo": {"shift": 3.0},
    "base": {"shift": 6.0},
    "by_size": {"use_dynamic_shifting": True, "base_shift": 0.3, "max_shift": 1.3},
}


def save(root: Path, qwen3: Path, scheduler, with_head=False) -> Path:
    """A tiny pipeline of diffusers, as a folder."""
    text = transformers.Qwen3ForCausalLM if with_head else transformers.Qwen3Model
    pipeline = diffusers.ZImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**scheduler),
        vae=randomized(
            diffusers.AutoencoderKL(
                block_out_channels=(32, 64),
                layers_per_block=1,
                down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2,
                latent_channels=4,
                use_quant_conv=False,
                use_post_quant_conv=False,
                shift_factor=0.1,
                scaling_factor=0.4,
                sample_size=16,
            )
        ),
        text_encoder=text.from_pretrained(qwen3),
        tokenizer=transformers.AutoTokenizer.from_pretrained(qwen3),
        transformer=randomized(
            diffusers.ZImageTransformer2DModel(
                in_channels=4, dim=48, n_layers=2, n_refiner_layers=1, n_heads=3, n_kv_heads=3, cap_feat_dim=24,
                axes_dims=[4, 6, 6], rope_theta=100.0,
            )
        ),
    )  # fmt: skip
    pipeline.save_pretrained(root)
    return root


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    qwen3 = write_qwen3(tmp_path_factory.mktemp("qwen3"))
    made = {name: save(tmp_path_factory.mktemp(name), qwen3, options) for name, options in SCHEDULERS.items()}
    return made | {"with_head": save(tmp_path_factory.mktemp("with_head"), qwen3, SCHEDULERS["turbo"], with_head=True)}


def read(folder: Path):
    """The tensors of a folder, by sub-folder; the JSON files in it; and where its parts are."""
    weights = {
        f"{file.parent.name}.{key}": value
        for file in folder.glob("*/*.safetensors")
        for key, value in load_file(file).items()
    }
    files = {file.relative_to(folder).with_suffix("").as_posix(): file for file in folder.rglob("*.json")}
    told = {name: json.loads(file.read_text()) for name, file in files.items()}
    return weights, Found(told=told, places={part.name: part for part in folder.iterdir() if part.is_dir()})


def ours_of(folder: Path):
    """Our tensors, and the config of them."""
    weights, found = read(folder)
    pieces, unknown = expanded(ZImage().rules("diffusers", weights), weights)
    assert unknown == []
    ours = translated(pieces, weights)
    return ours, ZImage().config("diffusers", {key: tuple(value.shape) for key, value in weights.items()}, found)


def engine_of(folder: Path):
    weights, config = ours_of(folder)
    engine = build_engine(config_from(config))
    missing, unexpected = engine.load_state_dict(weights, strict=False)
    assert missing == []
    assert set(unexpected) <= {"conditioner.embedders.0.transformer.lm_head.weight"}
    return engine.eval()


@torch.no_grad()
@pytest.mark.parametrize("name", [*SCHEDULERS, "with_head"])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_pictures_are_those_of_the_pipeline_of_diffusers(folders, name, scale):
    """Theirs counts guidance from 0."""
    pipeline = diffusers.ZImagePipeline.from_pretrained(folders[name])
    engine = engine_of(folders[name])
    h, w, steps, prompts = 8, 12, 3, ["a cat", "a longer text of words"]
    noise = draw(2, 4, h, w)
    expected = pipeline(
        [*prompts], latents=noise, height=2 * h, width=2 * w, num_inference_steps=steps, guidance_scale=scale - 1,
        negative_prompt=["", ""], output_type="pt",
    ).images  # fmt: skip
    engine.sampler.guider.scale = scale
    cond, uncond = engine.conditioner({"txt": prompts}, drop=False), engine.conditioner.unconditional({"txt": prompts})
    latents = engine.sampler(engine.denoise, noise, cond, uncond, num_steps=steps)
    found = engine.decode_first_stage(latents).clamp(-1, 1)
    assert 0.1 < (2 * expected - 1).abs().mean() < 0.9
    torch.testing.assert_close(found, 2 * expected - 1, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", [*SCHEDULERS, "with_head"])
def test_a_folder_is_recognised_and_its_tensors_survive_the_way_here_and_back(folders, name):
    weights, _ = read(folders[name])
    claim = recognise({key: tuple(value.shape) for key, value in weights.items()})[0]
    assert (claim.name, claim.form.name, claim.whole) == ("z_image", "diffusers", True)
    ours, _ = ours_of(folders[name])
    pieces, unknown = expanded(ZImage().rules("diffusers", ours), ours, back=True)
    assert unknown == []
    back = translated(pieces, ours, back=True)
    there = {key.replace("text_encoder.model.", "text_encoder."): value for key, value in weights.items()}
    assert back.keys() == there.keys()
    assert all(torch.equal(back[key], there[key]) for key in there)


@torch.no_grad()
def test_diffusers_draws_the_same_from_the_folder_that_is_written(folders, tmp_path):
    weights, config = ours_of(folders["turbo"])
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    told = ZImage().folder("diffusers", shapes, config)
    pieces, _ = expanded(ZImage().rules("diffusers", shapes), shapes, back=True)
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in translated(pieces, weights, back=True).items():
        part, _, name = key.partition(".")
        parts.setdefault(part, {})[name] = value.contiguous()
    for part, tensors in parts.items():
        (tmp_path / part).mkdir()
        name = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        save_file(tensors, tmp_path / part / f"{name}.safetensors", metadata={"format": "pt"})
    for name, content in told.items():
        if isinstance(content, Path):
            (tmp_path / name).mkdir()
            for file in content.iterdir():
                (tmp_path / name / file.name).write_bytes(file.read_bytes())
        else:
            (tmp_path / f"{name}.json").parent.mkdir(exist_ok=True)
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
    call = {"prompt": "a cat", "latents": draw(1, 4, 8, 12), "height": 16, "width": 24, "num_inference_steps": 2}
    pictures = [
        diffusers.ZImagePipeline.from_pretrained(folder)(**call, guidance_scale=0.0, output_type="pt").images
        for folder in (folders["turbo"], tmp_path)
    ]
    assert torch.equal(*pictures)


@pytest.mark.parametrize("form", ["original", "comfy", "sgm"])
def test_the_published_network_is_known_by_its_keys_in_each_form(form):
    ours = {key: tuple(value.shape) for key, value in engine_on_meta("z_image_turbo").state_dict().items()}
    network = {key: shape for key, shape in ours.items() if key.startswith("model.diffusion_model.")}
    if form == "original":
        shapes = {key.removeprefix("model.diffusion_model."): shape for key, shape in network.items()}
        shapes |= {"norm_final.weight": (3840,)}  # which nothing computes with
    else:
        shapes = network if form == "comfy" else ours
    claim = recognise(shapes)[0]
    assert (claim.name, claim.form.name, [model.config for model in claim.models]) == (
        "z_image",
        form,
        ["z_image_turbo"],
    )
    assert [model.config for model in models_of(shapes)] == ["z_image_turbo"]


def test_the_shipped_config_is_what_the_published_tensors_are():
    """Without a folder the family's own numbers stand for what keys do not tell."""
    engine = engine_on_meta("z_image_turbo")
    shapes = {key: tuple(value.shape) for key, value in engine.state_dict().items()}
    network = {key.removeprefix(NETWORK): shape for key, shape in shapes.items() if key.startswith(NETWORK)}
    config = ZImage().config("original", network, Found())["model"]
    with torch.device("meta"):
        again = build_engine(config_from({"model": {**config, "conditioner": None}}))
    theirs = again.state_dict()
    assert {key: tuple(value.shape) for key, value in theirs.items()} == {
        key: shape for key, shape in shapes.items() if not key.startswith("conditioner.")
    }
    for name in ("shift", "scale"):
        assert getattr(engine.first_stage_model, name) == getattr(again.first_stage_model, name)
    for name in ("axes_dims", "rope_theta"):
        assert getattr(engine.model.diffusion_model, name) == getattr(again.model.diffusion_model, name)
    assert (again.sampler.num_steps, again.sampler.guider.scale) == (8, 1.0)
    assert torch.equal(engine.sampler.schedule(), again.sampler.schedule())


def test_axes_that_no_key_tells_are_asked_for(folders):
    weights, found = read(folders["turbo"])
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    with pytest.raises(SgmError, match=r"heads of width 16.*axes_dims.*'transformer'"):
        ZImage().config("diffusers", shapes, found._replace(told={}))
