"""FLUX.1 and Chroma: the folders that diffusers saves, drawn from by ours with the noise and the prompt of theirs."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

from support.networks import draw, randomized  # noqa: E402
from support.tiny_transformers import write_clip, write_t5  # noqa: E402

import sgm_core as sgm  # noqa: E402
from sgm_core.building.fresh import build_engine  # noqa: E402
from sgm_core.checkpoints.family import Found, Request, expanded  # noqa: E402
from sgm_core.checkpoints.layouts import NETWORK  # noqa: E402
from sgm_core.checkpoints.pieces import translated  # noqa: E402
from sgm_core.checkpoints.recognise import recognise  # noqa: E402
from sgm_core.cli.app import main  # noqa: E402
from sgm_core.config.api import config_from  # noqa: E402
from sgm_core.errors import SgmError  # noqa: E402
from sgm_plugins.families.flux import Chroma, FluxDev, FluxFamily, FluxKontext, FluxSchnell  # noqa: E402
from sgm_plugins.lora.merge import load_lora  # noqa: E402

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
    return weights, Found(told, {part.name: part for part in folder.iterdir() if part.is_dir()})


def engine_of(family: FluxFamily, folder: Path):
    """Ours, of a folder."""
    weights, found = read(folder)
    pieces, unknown = expanded(family.rules("diffusers", weights), weights)
    assert unknown == []
    ours = translated(pieces, weights)
    config = family.config("diffusers", {key: tuple(value.shape) for key, value in weights.items()}, found)
    engine = build_engine(config_from(config))
    engine.load_state_dict(ours)
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
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
    config = theirs.vae.config
    picture = theirs.vae.decode(expected / config.scaling_factor + config.shift_factor).sample
    assert (engine.decode_first_stage(expected) - picture).abs().max() < 1e-4 * picture.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("name", ["flux_dev", "flux_kontext", "chroma"])
def test_a_folder_draws_the_picture_of_its_pipeline(folders, name):
    theirs = getattr(diffusers, PIPELINES[name][1]).from_pretrained(folders[name])
    h, w = 8, 12
    noise = draw(1, 4, h, w)
    call = {"latents": theirs._pack_latents(noise, 1, 4, h, w), "height": 2 * h, "width": 2 * w}
    if name == "chroma":
        theirs.transformer.register_forward_pre_hook(masking, with_kwargs=True)
        call |= {"negative_prompt": "", "guidance_scale": 5.0}
    else:
        call["guidance_scale"] = 3.5
    if name == "flux_kontext":
        call["max_area"] = 4 * h * w
    expected = theirs(prompt="a lighthouse", num_inference_steps=3, output_type="pt", **call).images[0] * 2 - 1
    pipe = sgm.Pipeline.load(folders[name])
    picture = pipe("a lighthouse", noise=noise, size=(2 * w, 2 * h), steps=3)[0]
    assert expected.std() > 0.2
    assert (picture.image - expected).abs().max() < 1e-4


@pytest.mark.parametrize("name", PIPELINES)
def test_a_folder_is_recognised(folders, name):
    weights, found = read(folders[name])
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    claims = recognise(shapes, found.told)
    names = [claim.name for claim in claims if claim.whole]
    assert names == [name]  # of FLUX.1 dev and Kontext, whose keys are the same, the table of contents tells
    if name in ("flux_dev", "flux_kontext"):
        assert [claim.name for claim in recognise(shapes) if claim.whole] == ["flux_dev", "flux_kontext"]
    assert claims[0].form.name == "diffusers"
    built = [claim.name for claim in claims if claim.family.config("diffusers", shapes, found) is not None]
    assert built == [name]


@pytest.mark.parametrize("name", PIPELINES)
def test_a_folder_becomes_one_file_and_a_folder_again(folders, name, tmp_path):
    weights, found = read(folders[name])
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    config = PIPELINES[name][0]().config("diffusers", shapes, found)
    (tmp_path / "tiny.yaml").write_text(config_from(config).to_yaml())
    one, back = tmp_path / "one.safetensors", tmp_path / "back"
    assert (
        main(["convert", "checkpoint", str(folders[name]), "--out", str(one), "--config", str(tmp_path / "tiny.yaml")])
        == 0
    )
    assert main(["convert", "checkpoint", str(one), "--out", str(back)]) == 0
    again, _ = read(back)
    assert again.keys() == weights.keys()
    assert all(torch.equal(value, again[key]) for key, value in weights.items())
    theirs = getattr(diffusers, PIPELINES[name][1])
    pipeline, first = theirs.from_pretrained(back), theirs.from_pretrained(folders[name])
    for part in ("transformer", "vae", "scheduler"):
        ours, expected = (dict(getattr(p, part).config) for p in (pipeline, first))
        different = {key for key in expected if ours.get(key) != expected[key] and not key.startswith("_")}
        assert different <= {"out_channels", "shift", "sample_size", "force_upcast"}, {
            k: (ours.get(k), expected[k]) for k in different
        }


FORMS = {
    "original": lambda key: key.removeprefix("model.diffusion_model."),
    "comfy": lambda key: key,
}


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", PIPELINES)
def test_the_file_of_its_authors_is_recognised_with_and_without_a_prefix(folders, name, form):
    """What is given beside it has the names of parts before its keys."""
    family = PIPELINES[name][0]()
    weights, found = read(folders[name])
    engine = engine_of(family, folders[name])
    state = engine.state_dict()
    network = {FORMS[form](key): value for key, value in state.items() if key.startswith("model.diffusion_model.")}
    shapes = {key: tuple(value.shape) for key, value in network.items()}
    claims = [claim for claim in recognise(shapes) if claim.whole]
    assert name in [claim.name for claim in claims]
    assert {claim.form.name for claim in claims} == {form}
    assert {claim.name for claim in claims} <= {"flux_dev", "flux_kontext"} or len(claims) == 1
    parts = network | {key: value for key, value in weights.items() if not key.startswith("transformer.")}
    pieces, unknown = expanded(family.rules(form, parts), parts)
    ours = translated(pieces, parts)
    assert unknown == []
    assert ours.keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in ours.items())
    told = {key: value for key, value in found.told.items() if key != "model_index"}
    config = family.config(form, {key: tuple(value.shape) for key, value in parts.items()}, Found(told, found.places))
    assert config == family.config("diffusers", {key: tuple(value.shape) for key, value in weights.items()}, found)


def test_what_no_key_tells_is_asked_for(folders):
    weights, _ = read(folders["flux_dev"])
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    with pytest.raises(SgmError, match=r"heads of width 16.*axes_dims_rope.*part 'transformer'"):
        FluxDev().config("diffusers", shapes, Found())


@pytest.mark.parametrize("start", ["transformer.", "diffusion_model.", "lora_unet_"])
def test_a_lora_by_the_names_of_each_program_changes_the_same_weights(folders, start, tmp_path):
    engine = engine_of(FluxDev(), folders["flux_dev"])
    state = {key: value.clone() for key, value in engine.state_dict().items()}
    rank, alpha = 2, 3.0
    theirs = start == "transformer."
    layers = {
        "single_transformer_blocks.1.attn.to_k" if theirs else "single_blocks.1.linear1": (32, 32)
        if theirs
        else (32, 224),
        "transformer_blocks.0.attn.to_q" if theirs else "double_blocks.0.img_attn.qkv": (32, 32)
        if theirs
        else (32, 96),
    }
    changes, file = {}, {}
    for layer, (wide, out) in layers.items():
        A, B = draw(rank, wide), draw(out, rank, seed=1)
        changes[layer] = B @ A * (alpha / rank)
        name = start + (layer.replace(".", "_") if start == "lora_unet_" else layer)
        down, up = ("lora_down", "lora_up") if start == "lora_unet_" else ("lora_A", "lora_B")
        file |= {f"{name}.{down}.weight": A, f"{name}.{up}.weight": B, f"{name}.alpha": torch.tensor(alpha)}
    save_file(file, tmp_path / "lora.safetensors")
    assert load_lora(engine, tmp_path / "lora.safetensors") == 2
    found = engine.state_dict()
    for key, (layer, rows) in {
        "single_blocks.1.linear1": (next(iter(layers)), slice(32, 64) if theirs else slice(None)),
        "double_blocks.0.img_attn.qkv": (list(layers)[1], slice(0, 32) if theirs else slice(None)),
    }.items():
        weight = f"model.diffusion_model.{key}.weight"
        state[weight][rows] += changes[layer]
        torch.testing.assert_close(found[weight], state[weight])
    assert sum(not torch.equal(value, state[key]) for key, value in found.items()) <= 2


# --- through the pipeline ------------------------------------------------------------------------------------------


def peer_of(folder: Path, name: str):
    pipe = getattr(diffusers, PIPELINES[name][1]).from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    if name == "chroma":
        pipe.transformer.register_forward_pre_hook(masking, with_kwargs=True)
    return pipe


def theirs(pipe, name: str, noise: torch.Tensor, **more) -> torch.Tensor:
    _, c, h, w = noise.shape
    pictures = pipe(
        prompt=["a cat", "my dog"],
        latents=pipe._pack_latents(noise, len(noise), c, h, w),
        height=2 * h,
        width=2 * w,
        num_inference_steps=4,
        guidance_scale=3.0,
        max_sequence_length=256 if name == "flux_schnell" else 512,
        output_type="pt",
        **more,
    ).images
    return pictures * 2 - 1


def ours(pipe: sgm.Pipeline, name: str, noise: torch.Tensor, **more) -> torch.Tensor:
    scale = {} if name == "flux_schnell" else {"scale": 3.0}
    size = (2 * noise.shape[3], 2 * noise.shape[2])
    drawn = pipe(["a cat", "my dog"], noise=noise, steps=4, size=size, **scale, **more)
    return torch.stack([picture.image for picture in drawn])


@pytest.mark.parametrize("name", PIPELINES)
def test_a_folder_draws_what_its_pipeline_draws(folders, name):
    noise = draw(2, 4, 8, 12)
    expected = theirs(peer_of(folders[name], name), name, noise, **({"max_area": 384} if "kontext" in name else {}))
    assert expected.std() > 0.2
    torch.testing.assert_close(ours(sgm.Pipeline.load(folders[name]), name, noise), expected, rtol=1e-4, atol=1e-4)


def test_kontext_edits_the_picture_that_it_is_given(folders):
    name, noise, picture = "flux_kontext", draw(2, 4, 8, 8), draw(3, 12, 20).tanh()
    expected = theirs(
        peer_of(folders[name], name), name, noise, image=(picture[None] + 1) / 2, max_area=256, _auto_resize=False
    )
    pipe = sgm.Pipeline.load(folders[name])
    found = ours(pipe, name, noise, reference=picture)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (found - ours(pipe, name, noise)).abs().max() > 0.01
    # two of one size, and two of different ones
    for other in (draw(3, 12, 20, seed=1).tanh(), draw(3, 8, 12).tanh()):
        assert (ours(pipe, name, noise, reference=[picture, other]) - found).abs().max() > 0.01
    with pytest.raises(SgmError, match="models that edit a picture"):
        sgm.Pipeline.load(folders["flux_dev"])("a cat", reference=picture)


def test_a_number_that_is_told_is_no_guidance_and_schnell_has_none(folders):
    noise = draw(1, 4, 8, 8)
    dev = sgm.Pipeline.load(folders["flux_dev"])
    low, high, default, set_too = (
        dev("a cat", noise=noise, steps=2, size=(16, 16), **how)[0].image
        for how in ({"scale": 1.0}, {"scale": 9.0}, {}, {"scale": 3.5})
    )
    assert (low - high).abs().max() > 1e-3
    assert torch.equal(default, set_too)
    with pytest.raises(SgmError, match=r"FLUX.1 \[schnell\] has no guidance"):
        sgm.Pipeline.load(folders["flux_schnell"])("a cat", scale=3.0)
    with pytest.raises(SgmError, match="multiples of 4 pixels"):
        dev("a cat", size=(18, 16))


@pytest.mark.parametrize("prefix", ["", NETWORK])
def test_a_file_of_the_network_draws_with_parts_from_elsewhere(folders, prefix, tmp_path):
    weights, _ = read(folders["flux_dev"])
    pieces, _ = expanded(FluxDev().rules("diffusers", weights), weights)
    network = {
        prefix + key.removeprefix(NETWORK): value.contiguous()
        for key, value in translated(pieces, weights).items()
        if key.startswith(NETWORK)
    }
    file = tmp_path / "flux.safetensors"
    save_file(network, file)
    noise = draw(2, 4, 8, 8)
    expected = ours(sgm.Pipeline.load(folders["flux_dev"]), "flux_dev", noise)
    parts = {part: folders["flux_dev"] / part for part in ("vae", "text_encoder", "tokenizer", "text_encoder_2")}
    with pytest.raises(SgmError, match=r"lacks vae, text_encoder, tokenizer, text_encoder_2, tokenizer_2: give --part"):
        sgm.Pipeline.load(file)
    with pytest.raises(SgmError, match=r"lacks tokenizer_2: give --part tokenizer_2=PATH"):
        sgm.Pipeline.load(file, parts=parts)
    parts |= {"tokenizer_2": folders["flux_dev"] / "tokenizer_2", "transformer": tmp_path / "transformer"}
    (tmp_path / "transformer").mkdir()
    told = (folders["flux_dev"] / "transformer" / "config.json").read_text()
    (tmp_path / "transformer" / "config.json").write_text(told)
    for given in (parts, folders["flux_dev"]):
        torch.testing.assert_close(ours(sgm.Pipeline.load(file, parts=given), "flux_dev", noise), expected)
