"""FLUX.1 and Chroma: the folders that diffusers saves, drawn from by ours with the noise and the prompt of theirs."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

from support.networks import draw, randomized  # noqa: E402
from support.tiny_transformers import write_clip, write_t5  # noqa: E402

from sgm_core.building.fresh import build_engine  # noqa: E402
from sgm_core.checkpoints.family import Request, expanded  # noqa: E402
from sgm_core.checkpoints.pieces import translated  # noqa: E402
from sgm_core.checkpoints.recognise import recognise  # noqa: E402
from sgm_core.config.api import config_from  # noqa: E402
from sgm_plugins.families.flux import Chroma, FluxDev, FluxFamily, FluxKontext, FluxSchnell  # noqa: E402

SIZE = {
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "axes_dims_rope": (4, 6, 6),
}
PIPELINES = {
    "flux_dev": (FluxDev, "FluxPipeline", {"guidance_embeds": True}),
    "flux_schnell": (FluxSchnell, "FluxPipeline", {}),
    "flux_kontext": (FluxKontext, "FluxKontextPipeline", {"guidance_embeds": True}),
    "chroma": (Chroma, "ChromaPipeline", {}),
}
DYNAMIC = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "shift": 3.0}


def save(name: str, root: Path) -> Path:
    """A tiny pipeline of diffusers, as a folder."""
    _, pipeline, options = PIPELINES[name]
    clip, t5 = write_clip(root / "clip"), write_t5(root / "t5")
    scheduler = {"shift": 1.0} if name == "flux_schnell" else DYNAMIC
    parts = {
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(**scheduler),
        "vae": randomized(
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
    }
    tower = transformers.T5EncoderModel.from_pretrained(t5)
    tokens = transformers.AutoTokenizer.from_pretrained(t5)
    if name == "chroma":
        network = diffusers.ChromaTransformer2DModel(
            **SIZE, approximator_num_channels=16, approximator_hidden_dim=20, approximator_layers=2
        )
        parts |= {"text_encoder": tower, "tokenizer": tokens}
    else:
        network = diffusers.FluxTransformer2DModel(**SIZE, **options, pooled_projection_dim=32)
        parts |= {
            "text_encoder": transformers.CLIPTextModel.from_pretrained(clip),
            "tokenizer": transformers.CLIPTokenizer.from_pretrained(clip),
            "text_encoder_2": tower,
            "tokenizer_2": tokens,
        }
    getattr(diffusers, pipeline)(**parts, transformer=randomized(network)).save_pretrained(root / "folder")
    return root / "folder"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: save(name, tmp_path_factory.mktemp(name)) for name in PIPELINES}


def read(folder: Path):
    """The tensors of a folder, by sub-folder; the JSON files in it; and where its parts are."""
    weights = {
        f"{file.parent.name}.{key}": value
        for file in folder.glob("*/*.safetensors")
        for key, value in load_file(file).items()
    }
    files = {file.relative_to(folder).with_suffix("").as_posix(): file for file in folder.rglob("*.json")}
    told = {name: json.loads(file.read_text()) for name, file in files.items()}
    return weights, SimpleNamespace(told=told, places={part.name: part for part in folder.iterdir() if part.is_dir()})


def engine_of(family: FluxFamily, folder: Path):
    """Ours, of the transformer and the text encoders of a folder."""
    weights, found = read(folder)
    pieces, _ = expanded(family.rules("diffusers", weights), weights)
    ours = translated([piece for piece in pieces if not piece.theirs.startswith("vae.")], weights)
    config = family.config("diffusers", {key: tuple(value.shape) for key, value in weights.items()}, found)
    config["model"]["first_stage"] = "identity"
    engine = build_engine(config_from(config))
    missing, unexpected = engine.load_state_dict(ours, strict=False)
    assert not unexpected
    assert all(key.endswith("encoder.embed_tokens.weight") for key in missing)
    return engine.eval()


def latents_of(pipeline, packed, h, w):
    return pipeline._unpack_latents(packed, 2 * h, 2 * w, pipeline.vae_scale_factor)


def masking(_, arguments, named):
    """A mask that leaves padding out, as in Chroma's own code; diffusers 0.42.1 adds it, 1 or 0, to the scores."""
    return arguments, {**named, "attention_mask": named["attention_mask"].bool()}


@torch.no_grad()
@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.parametrize("steps", [1, 4])
def test_latents_are_those_of_the_pipeline_of_diffusers(folders, name, steps):
    family, pipeline, _ = PIPELINES[name]
    theirs = getattr(diffusers, pipeline).from_pretrained(folders[name])
    engine = engine_of(family(), folders[name])
    h, w = 8, 12
    noise, prompt = draw(1, 4, h, w), "a lighthouse"
    latents = theirs._pack_latents(noise, 1, 4, h, w)
    call = {"latents": latents, "height": 2 * h, "width": 2 * w, "num_inference_steps": steps, "output_type": "latent"}
    batch = {"txt": [prompt]}
    entries = family().entries(Request(2 * w, 2 * h))
    if name == "flux_kontext":
        picture = draw(1, 4, 6, 6)
        expected = theirs(prompt=prompt, image=picture, guidance_scale=2.0, max_area=4 * h * w, **call).images
        batch |= {"guidance": torch.tensor([2.0]), "reference": picture}
    elif name == "flux_dev":
        expected = theirs(prompt, guidance_scale=2.0, **call).images
        batch |= {"guidance": torch.tensor([2.0])}
    elif name == "flux_schnell":
        expected = theirs(prompt, guidance_scale=0.0, max_sequence_length=256, **call).images
    else:
        theirs.transformer.register_forward_pre_hook(masking, with_kwargs=True)
        expected = theirs(prompt, negative_prompt="", guidance_scale=5.0, max_sequence_length=512, **call).images
    assert batch.keys() == {"txt", *entries}
    cond = engine.conditioner(batch, drop=False)
    found = engine.sampler(engine.denoise, noise, cond, engine.conditioner.unconditional(batch), num_steps=steps)
    expected = latents_of(theirs, expected, h, w)
    assert expected.abs().max() > 1
    tolerance = 1e-4 * expected.abs().max()
    assert (found - expected).abs().max() < tolerance


@pytest.mark.parametrize("name", PIPELINES)
def test_a_folder_is_recognised(folders, name):
    weights, found = read(folders[name])
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    claims = recognise(shapes, found.told)
    names = [claim.name for claim in claims if claim.whole]
    expected = {"flux_dev": ["flux_dev", "flux_kontext"], "flux_kontext": ["flux_dev", "flux_kontext"]}
    assert names == expected.get(name, [name])
    assert claims[0].form.name == "diffusers"
    built = [claim.name for claim in claims if claim.family.config("diffusers", shapes, found) is not None]
    assert built == [name]
