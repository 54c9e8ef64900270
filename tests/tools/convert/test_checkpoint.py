"""Checkpoints in other forms: the same weights bit for bit, and in diffusers the same numbers."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.key_tables import shapes_of
from support.tiny_public_models import write_checkpoint

import sgm_core as sgm
from sgm_core.building.loaded import load_engine
from sgm_core.checkpoints.family import Rule, expanded
from sgm_core.checkpoints.files import read_checkpoint
from sgm_core.cli.app import main
from sgm_core.errors import SgmError
from sgm_plugins.families import unet, vae
from sgm_plugins.families.settings import unet_settings, vae_settings
from sgm_plugins.tools.convert.checkpoint import convert_checkpoint
from sgm_plugins.tools.inspect.contents import nested

IMAGES = ("sd_xl_base", "sd_xl_refiner", "sd_2_1", "sd_2_1_768")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Of each model, when asked for: NAME.safetensors and NAME.yaml, and a folder of diffusers made of it."""
    made = {}

    def make(name: str) -> tuple[Path, Path, Path]:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            path = write_checkpoint(name, folder, with_config=False)
            convert_checkpoint(path, folder / "diffusers", str(path.with_suffix(".yaml")))
            made[name] = (path, path.with_suffix(".yaml"), folder / "diffusers")
        return made[name]

    return make


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        value.dtype == other[key].dtype and torch.equal(value, other[key]) for key, value in one.items()
    )


# --- there and back ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IMAGES)
def test_through_a_folder_of_diffusers_every_tensor_comes_back_bit_for_bit(models, tmp_path, name):
    path, config, folder = models(name)
    convert_checkpoint(folder, tmp_path / "back.safetensors", str(config))
    back = read_checkpoint(tmp_path / "back.safetensors")
    assert same(back.weights, load_file(path))
    assert back.provenance.config["model"]["use"] == "diffusion"
    assert load_engine(tmp_path / "back.safetensors").latent_shape == (4, 8, 8)


@pytest.mark.parametrize("name", ["sd_xl_base", "sd_2_1"])
def test_half_precision_stays_half_precision(models, tmp_path, name):
    path, config, _ = models(name)
    half = {key: value.half() for key, value in load_file(path).items()}
    torch.save({"state_dict": half}, tmp_path / "half.ckpt")
    convert_checkpoint(tmp_path / "half.ckpt", tmp_path / "folder", str(config))
    assert {t.dtype for t in load_file(tmp_path / "folder/unet/diffusion_pytorch_model.safetensors").values()} == {
        torch.float16
    }
    convert_checkpoint(tmp_path / "folder", tmp_path / "back.safetensors", str(config))
    back = load_file(tmp_path / "back.safetensors")
    assert back.pop("denoiser.sigmas").dtype == torch.float32  # a rounded table is computed anew
    del half["denoiser.sigmas"]
    assert same(back, half)


def test_a_ckpt_becomes_one_file_with_its_config(models, tmp_path, capsys):
    path, config, _ = models("sd_xl_base")
    weights = load_file(path)
    position = "conditioner.embedders.0.transformer.text_model.embeddings.position_ids"
    torch.save({"state_dict": {**weights, position: torch.arange(16)[None]}}, tmp_path / "old.ckpt")
    command = ["convert", "checkpoint", str(tmp_path / "old.ckpt"), "--out", str(tmp_path / "new.safetensors")]
    assert main([*command, "--config", str(config)]) == 0
    out = capsys.readouterr().out
    assert "1 entries that are no weights are left out" in out
    assert "new.safetensors: written" in out
    assert same(load_file(tmp_path / "new.safetensors"), weights)
    engine = load_engine(tmp_path / "new.safetensors")  # without being told the config
    assert torch.equal(engine.model.diffusion_model.out[2].weight, weights["model.diffusion_model.out.2.weight"])


def test_the_shards_and_the_older_names_of_a_folder_are_read(models, tmp_path):
    """Large models come in several files; diffusers below 0.17 called the autoencoder's attention otherwise."""
    path, config, folder = models("sd_xl_base")
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    unet = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(unet)
    unet.unlink()
    keys = sorted(weights)
    table = {}
    for i, half in enumerate((keys[::2], keys[1::2])):
        name = f"diffusion_pytorch_model-0000{i + 1}-of-00002.safetensors"
        save_file({key: weights[key] for key in half}, unet.with_name(name))
        table |= dict.fromkeys(half, name)
    unet.with_name(f"{unet.name}.index.json").write_text(json.dumps({"weight_map": table}))
    vae = copy / "vae" / "diffusion_pytorch_model.safetensors"
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    pattern = re.compile(r"(?<=attentions\.0\.)(to_q|to_k|to_v|to_out\.0)")
    save_file({pattern.sub(lambda m: older[m[1]], key): value for key, value in load_file(vae).items()}, vae)
    convert_checkpoint(copy, tmp_path / "back.safetensors", str(config))
    assert same(load_file(tmp_path / "back.safetensors"), load_file(path))


def test_a_folder_without_what_nobody_computes_with_is_filled_up_and_draws_the_same(models, tmp_path):
    """Folders that others made have no last block of Stable Diffusion 2's text encoder, and no projection."""
    path, config, folder = models("sd_2_1")
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "sgm_left_over.safetensors").unlink()
    wide = tmp_path / "wide.yaml"
    clip = tmp_path / "clip"
    shutil.copytree(path.parent / "clip", clip)
    told = json.loads((clip / "config.json").read_text())
    told["text_config"]["projection_dim"] = told["text_config"]["hidden_size"]  # as in ViT-H
    (clip / "config.json").write_text(json.dumps(told))
    wide.write_text(config.read_text().replace(str(path.parent / "clip"), str(clip)))
    notes = convert_checkpoint(copy, tmp_path / "back.safetensors", str(wide))
    assert any("no logit_scale and no text_projection" in note for note in notes)
    one, other = load_engine(path, str(config)), load_engine(tmp_path / "back.safetensors")
    options = {"num_steps": 1, "seed": 1}
    assert torch.equal(one.generate({"txt": ["a cat"]}, **options), other.generate({"txt": ["a cat"]}, **options))


# --- the same numbers in diffusers ---------------------------------------------------------------------------------


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, atol=1e-5 * float(one.abs().max()), rtol=1e-5)


@pytest.mark.parametrize("name", IMAGES)
@torch.no_grad()
def test_the_networks_give_the_same_in_diffusers(models, name):
    diffusers = pytest.importorskip("diffusers")
    path, config, folder = models(name)
    ours = load_engine(path, str(config))
    theirs = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    torch.manual_seed(0)
    network = ours.model.diffusion_model
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([3, 900])
    context = torch.randn(2, 5, theirs.config.cross_attention_dim)
    vector, options = None, {}
    if name.startswith("sd_xl"):
        count = 6 if name == "sd_xl_base" else 5
        pooled = torch.randn(2, 20)
        numbers = torch.randint(0, 1024, (2, count)).float()
        embed = ours.conditioner.embedders[-1]
        vector = torch.cat([pooled, embed(numbers)], dim=1)
        options = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": numbers}}
    expected = network(x, timesteps=t, context=context, y=vector)
    assert close(expected, theirs(x, t, context, **options).sample)
    assert float(expected.std()) > 1e-2

    vae = diffusers.AutoencoderKL.from_pretrained(folder / "vae").eval()
    image = torch.rand(1, 3, 16, 16) * 2 - 1
    assert close(ours.first_stage_model.moments(image), vae.encode(image).latent_dist.parameters)
    assert close(ours.first_stage_model.decode(x), vae.decode(x).sample)
    assert vae.config.scaling_factor == ours.scale_factor
    assert "torchvision" not in sys.modules


@pytest.mark.parametrize("name", IMAGES)
def test_in_full_size_diffusers_builds_a_model_of_the_same_keys_and_shapes(name):
    """On the meta device, from the settings that are written: every weight of the public file has its place."""
    diffusers = pytest.importorskip("diffusers")
    shapes = shapes_of(name)
    network, stage = nested(shapes, "model.diffusion_model."), nested(shapes, "first_stage_model.")
    config = sgm.load_config(name).to_dict()
    down, up = unet.our_levels(network)
    size = vae.size(stage)
    parts = [
        (network, unet.unet_names(down, up), unet_settings(config, network, down, up), diffusers.UNet2DConditionModel),
        (stage, vae.vae_names(*size), vae_settings(config, stage, *size), diffusers.AutoencoderKL),
    ]
    for part, table, settings, kind in parts:
        with torch.device("meta"):
            theirs = {key: list(value.shape) for key, value in kind.from_config(settings).state_dict().items()}
        pieces, unknown = expanded([Rule(a, b) for a, b in table.items()], part, back=True)
        names = {piece.ours: piece.theirs for piece in pieces}
        assert unknown == []
        assert {key: [n for n in s if n != 1] for key, s in theirs.items()} == {
            new: [n for n in part[old] if n != 1] for old, new in names.items()
        }
        back, unknown = expanded([Rule(a, b) for a, b in table.items()], theirs)
        assert (unknown, {piece.ours for piece in back}) == ([], set(part))
        if part is network:
            assert unet.their_levels(set(names.values())) == (down, up)


@pytest.mark.parametrize("name", IMAGES)
@torch.no_grad()
def test_the_text_encoders_give_the_same_in_transformers(models, name):
    transformers = pytest.importorskip("transformers")
    path, config, folder = models(name)
    ours = load_engine(path, str(config)).conditioner
    texts = ["a cat", "two dogs"]
    found = {}
    for end, kind in (("", transformers.CLIPTextModel), ("_2", transformers.CLIPTextModelWithProjection)):
        if not (folder / f"text_encoder{end}").is_dir():
            continue
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder / f"tokenizer{end}")
        ids = tokenizer(texts, padding="max_length", max_length=16, return_tensors="pt").input_ids
        found[end] = kind.from_pretrained(folder / f"text_encoder{end}").eval()(ids, output_hidden_states=True)
    n = 6  # tokens of the shorter text: what pads it differs
    if name.startswith("sd_2"):  # its last block is left out, so that the last norm is on the last but one
        assert close(ours.embedders[0](texts)[:, :n], found[""].last_hidden_state[:, :n])
        return
    z, pooled = ours.embedders[1 if name == "sd_xl_base" else 0](texts)
    assert close(z[:, :n], found["_2"].hidden_states[-2][:, :n])
    assert close(pooled, found["_2"].text_embeds)
    if name == "sd_xl_base":
        assert close(ours.embedders[0](texts)[:, :n], found[""].hidden_states[2][:, :n])


def test_diffusers_makes_a_pipeline_of_the_folder(models):
    diffusers = pytest.importorskip("diffusers")
    _, _, folder = models("sd_xl_base")
    pipeline = diffusers.StableDiffusionXLPipeline.from_pretrained(folder)
    image = pipeline("a cat", height=16, width=16, num_inference_steps=1, output_type="np").images
    assert image.shape == (1, 16, 16, 3)
    assert models("sd_2_1_768")[2].joinpath("scheduler/scheduler_config.json").read_text().count("v_prediction") == 1


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("nothing.safetensors", "new.safetensors", "nothing.safetensors: no such file"),
        ("empty", "new.safetensors", "no model_index.json here"),
        ("garbage.safetensors", "new.safetensors", "not a readable checkpoint"),
        ("garbage.ckpt", "new.safetensors", "not a readable checkpoint"),
        ("model.safetensors", "there.safetensors", "there.safetensors: exists already"),
        ("model.safetensors", "new.ckpt", "NAME.safetensors is one file"),
        ("unknown.safetensors", "new.safetensors", "holds weights but no config"),
        ("lora.safetensors", "new.safetensors", "it is a LoRA, in kohya's form"),
        ("folder", "other", "is a folder of diffusers already"),
        ("bins", "new.safetensors", "no diffusion_pytorch_model.safetensors; weights as .bin are not read"),
        ("half", "new.safetensors", "has no unet and no vae"),
        ("strange", "new.safetensors", "down_blocks.0.motion.weight: there is no such part"),
    ],
)
def test_what_can_not_be_converted_is_one_clear_message(models, tmp_path, capsys, source, target, expected):
    path, _, folder = models("sd_xl_base")
    (tmp_path / "empty").mkdir()
    for name in ("garbage.safetensors", "garbage.ckpt"):
        (tmp_path / name).write_bytes(b"no weights" * 20)
    shutil.copy(path, tmp_path / "model.safetensors")
    (tmp_path / "there.safetensors").touch()
    save_file({"a": torch.zeros(2)}, tmp_path / "unknown.safetensors")
    save_file({"lora_unet_x.lora_down.weight": torch.zeros(2)}, tmp_path / "lora.safetensors")
    for name in ("folder", "bins", "half", "strange"):
        shutil.copytree(folder, tmp_path / name)
    (tmp_path / "bins/unet/diffusion_pytorch_model.safetensors").rename(tmp_path / "bins/unet/model.bin")
    index = {"text_encoder": ["transformers", "CLIPTextModel"], "unet": [None, None], "vae": [None, None]}
    (tmp_path / "half/model_index.json").write_text(json.dumps(index))
    file = tmp_path / "strange/unet/diffusion_pytorch_model.safetensors"
    save_file({**load_file(file), "down_blocks.0.motion.weight": torch.zeros(2)}, file)
    before = sorted(tmp_path.rglob("*"))
    assert main(["convert", "checkpoint", str(tmp_path / source), "--out", str(tmp_path / target)]) == 1
    err = capsys.readouterr().err
    assert expected in err
    assert "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["../../other.safetensors", "/other.safetensors", "link.safetensors", "..", 5, None])
def test_a_folder_names_no_weights_outside_of_it(models, tmp_path, capsys, name):
    path, config, folder = models("sd_xl_base")
    shutil.copytree(folder, tmp_path / "copy")
    shutil.copy(path, tmp_path / "other.safetensors")
    unet = tmp_path / "copy/unet/diffusion_pytorch_model.safetensors"
    unet.unlink()
    unet.with_name("link.safetensors").symlink_to(tmp_path / "other.safetensors")
    unet.with_name(f"{unet.name}.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    for command in (
        ["inspect"],
        ["convert", "checkpoint", "--config", str(config), "--out", str(tmp_path / "new.safetensors")],
    ):
        assert main([*command, str(tmp_path / "copy")]) == 1
        assert "is not the name of a file" in capsys.readouterr().err
    assert not (tmp_path / "new.safetensors").exists()


def test_links_of_a_folder_stay_in_it_or_in_the_hubs_cache(models, tmp_path, capsys):
    _, config, folder = models("sd_xl_base")
    repository = tmp_path / "models--somebody--something"
    snapshot = repository / "snapshots" / "0123"
    shutil.copytree(folder, snapshot)
    (repository / "blobs").mkdir()
    for i, file in enumerate(sorted(path for path in snapshot.rglob("*") if path.is_file())):
        file.rename(repository / "blobs" / str(i))
        file.symlink_to(os.path.relpath(repository / "blobs" / str(i), file.parent))
    convert_checkpoint(snapshot, tmp_path / "back.safetensors", str(config))
    (repository / "blobs").rename(tmp_path / "elsewhere")
    (repository / "blobs").symlink_to(tmp_path / "elsewhere")
    assert main(["inspect", str(snapshot)]) == 1
    assert "is not the name of a file in this folder" in capsys.readouterr().err


def test_a_model_that_diffusers_does_not_have_is_refused_and_leaves_nothing(tmp_path):
    path = write_checkpoint("svd", tmp_path)
    with pytest.raises(SgmError, match="Stable Video Diffusion cannot be written as a folder of diffusers"):
        convert_checkpoint(path, tmp_path / "folder")
    assert [each.name for each in tmp_path.iterdir()].count("folder") == 0
    assert not list(tmp_path.glob(".folder*"))
