"""What a file is, from its keys and shapes; no weight is read, and no torch."""

import json
import struct
import subprocess
import sys
from math import prod
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.key_tables import TABLES, engine, shapes_of
from support.recognised import models_of
from support.tiny_public_models import write_checkpoint

import sgm_core as sgm
from sgm_core.checkpoints.recognise import ask, own_names, recognise
from sgm_core.cli.app import main
from sgm_core.errors import SgmError
from sgm_plugins.tools.convert.checkpoint import convert_checkpoint
from sgm_plugins.tools.inspect.contents import read_contents
from sgm_plugins.tools.inspect.inspection import form_of, inspect

LOOK_ALIKE = {
    name: pair
    for pair in (["sd_2_1", "sd_2_1_768"], ["flux_dev", "flux_kontext"], ["dit_xl_2", "sit_xl_2"])
    for name in pair
}


def write_hollow(path: Path, shapes: dict[str, list[int]], metadata: dict[str, str] | None = None) -> Path:
    """A `.safetensors` file with a true header, whose numbers are a hole in the disk."""
    header, end = {"__metadata__": metadata or {}}, 0
    for key, shape in shapes.items():
        begin, end = end, end + 2 * prod(shape)
        header[key] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return path


@pytest.mark.parametrize("name", TABLES)
def test_a_public_model_is_known_by_its_keys_in_a_file_of_any_name(name, tmp_path, capsys):
    path = write_hollow(tmp_path / "downloaded.safetensors", shapes_of(name), {"modelspec.title": "mine"})
    configs = LOOK_ALIKE.get(name, [name])
    assert main(["inspect", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [model["config"] for model in found["models"]] == configs
    assert found["metadata"] == {"modelspec.title": "mine"}
    tensors = found["tensors"][str(path)]
    assert {key: tensor["shape"] for key, tensor in tensors.items()} == shapes_of(name)
    assert sum(part["tensors"] for part in found["parts"].values()) == len(tensors)
    assert main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert all(config in out for config in configs)
    assert ("its keys cannot tell" in out) == (len(configs) > 1)
    assert "none (no EMA)" in out


def test_sdxl_by_its_numbers(tmp_path):
    found = inspect(write_hollow(tmp_path / "a.safetensors", shapes_of("sd_xl_base")))
    assert found.parts["network"].parameters == 2_567_463_684
    assert found.parts["network"].bytes == 2 * 2_567_463_684
    assert found.parts["first stage"].parameters == 83_653_863
    assert found.parts["conditioner"].dtypes == {"F16": 586}


def test_every_shipped_model_is_the_one_that_it_is_taken_for():
    """By the engine of its config, those without a table too."""
    for model in [model for models in ask(lambda _, family: family.models) for model in models]:
        if model.config:
            shapes = {key: tuple(value.shape) for key, value in engine(model.config).state_dict().items()}
            assert [m.config for m in models_of(shapes)] == LOOK_ALIKE.get(model.config, [model.config])


def test_a_network_alone_and_a_change_of_one_width():
    network = {key: shape for key, shape in shapes_of("sd_xl_base").items() if key.startswith("model.diffusion_model.")}
    bare = {key.removeprefix("model.diffusion_model."): shape for key, shape in network.items()}
    assert [m.config for m in models_of(network)] == [m.config for m in models_of(bare)] == ["sd_xl_base"]
    inpainting = {**network, "model.diffusion_model.input_blocks.0.0.weight": [320, 9, 3, 3]}
    assert [m.title for m in models_of(inpainting)] == ["Stable Diffusion XL for inpainting"]
    assert models_of({**network, "model.diffusion_model.label_emb.0.0.weight": [1280, 2817]}) == []
    assert models_of({}) == models_of({"a": [1]}) == []


def test_no_torch_is_imported_and_no_weight_is_read(tmp_path):
    path = write_hollow(tmp_path / "a.safetensors", shapes_of("sd_xl_refiner"))
    code = (
        "import sys; from sgm_core.cli.app import main; main(['inspect', sys.argv[1]]);"
        "sys.exit('torch' in sys.modules or 'safetensors' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert "refiner" in done.stdout


def test_ours_says_its_config_and_versions_and_a_run_its_step(tmp_path, capsys):
    path = write_checkpoint("sd_2_1", tmp_path)
    found = inspect(path)
    assert "use: diffusion" in found.config
    assert {part["name"] for part in found.components if part["kind"] == "embedders"} == {"open_clip_text"}
    assert main(["inspect", str(path), "--keys"]) == 0
    out = capsys.readouterr().out
    assert f"sgm-core {found.components[0]['version']}" in out
    assert "  denoiser.sigmas  F32 [1000]\n" in out


def test_a_run_and_its_ckpt(tmp_path, monkeypatch, capsys):
    from sgm_core.runs.run import start_run

    monkeypatch.chdir(tmp_path)
    fast = ["trainer.max_steps=2", "trainer.callbacks=[]", "trainer.limit_val_batches=0", "data.batch_size=4"]
    run = start_run(sgm.load_config("digits", overrides=fast), tmp_path / "runs", "a")
    assert run.train() == 0
    assert main(["inspect", "runs/a"]) == 0
    out = capsys.readouterr().out
    for line in ("step        2", "config      in the file", "averaged weights (EMA)", "not a public model"):
        assert line in out
    again = inspect(run.folder)
    assert again.step == 2
    assert sgm.load_config  # the config in it is one that can be read again
    (tmp_path / "again.yaml").write_text(again.config)
    assert sgm.load_config(tmp_path / "again.yaml")["model.use"] == "diffusion"


def test_a_folder_of_diffusers_by_its_parts(tmp_path):
    path = write_checkpoint("sd_xl_base", tmp_path)
    convert_checkpoint(path, tmp_path / "folder")
    found = inspect(tmp_path / "folder")
    assert list(found.parts) == ["unet", "vae", "text_encoder", "text_encoder_2"]
    weights = load_file(path)
    assert found.parts["unet"].tensors == sum(key.startswith("model.diffusion_model.") for key in weights)
    assert found.layout.name == "diffusers"


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("lora_unet_down_blocks_0_attentions_0.lora_down.weight", "kohya"),
        ("base_model.model.mid.to_q.lora_A.weight", "peft"),
        ("unet.down_blocks.0.attn1.to_q.lora_A.weight", "peft"),
        ("unet.down_blocks.0.attn1.processor.to_q_lora.down.weight", "lora"),
        ("down_blocks.0.resnets.0.time_emb_proj.hada_w1_a", "lycoris"),
        ("control_model.input_blocks.0.0.weight", "controlnet"),
        ("cond_stage_model.transformer.text_model.encoder.x", "ldm"),
        ("conditioner.embedders.0.model.x", "sgm"),
        ("input_blocks.0.0.weight", "bare network"),
        ("add_embedding.linear_1.weight", "diffusers unet"),
        ("decoder.up_blocks.0.resnets.0.conv1.weight", "diffusers vae"),
        ("decoder.up.0.block.0.conv1.weight", "bare first stage"),
        ("text_model.encoder.layers.0.mlp.fc1.weight", "transformers text"),
        ("double_blocks.0.img_attn.qkv.weight", "transformer"),
        ("something.else", "unknown"),
    ],
)
def test_each_layout_has_a_name(key, name):
    assert form_of(recognise({key: ()}), {key: ()}).name == name


def test_names_of_the_ancestor_become_ours():
    keys = [
        "model.diffusion_model.out.2.bias",
        "model_ema.diffusion_modelout2bias",
        "cond_stage_model.model.ln_final.bias",
    ]
    assert own_names(dict.fromkeys(keys, ())) == {
        keys[0]: keys[0],
        keys[1]: f"model_ema.shadow.{keys[0]}",
        keys[2]: "conditioner.embedders.0.model.ln_final.bias",
    }
    assert own_names({keys[1]: ()}, keys[:1]) == {keys[1]: f"model_ema.shadow.{keys[0]}"}
    assert own_names({keys[1]: ()}) == {keys[1]: keys[1]}  # nothing says where the dots were


def test_dtypes_and_bytes_are_those_that_torch_has(tmp_path):
    names = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "int64", "int32", "int8", "uint8", "bool")
    weights = {name: torch.zeros(3, 2).to(getattr(torch, name)) for name in names}
    save_file(weights, tmp_path / "a.safetensors")
    torch.save(weights, tmp_path / "a.ckpt")
    one, other = read_contents(tmp_path / "a.safetensors"), read_contents(tmp_path / "a.ckpt")
    assert one.tensors == other.tensors
    assert all(one.tensors[name].bytes == weights[name].nbytes for name in names)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "not a readable checkpoint: it is empty"),
        (b"\xff" * 100, "not a readable checkpoint: it is cut short, or no weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:aa", "it is a Git LFS pointer, not the file itself"),
        (b"<!DOCTYPE html><html>Log in</html>", "it is a web page: download the file itself"),
        (struct.pack("<Q", 4) + b"nope" + b" " * 9, "no .safetensors file: Expecting value"),
        (struct.pack("<Q", 2) + b"[]", "its header lists no tensors"),
        (struct.pack("<Q", 9) + b'{"a": {}}', "its header lists no tensors"),
    ],
)
def test_what_is_no_safetensors_file_is_told_in_a_line(tmp_path, content, expected, capsys):
    (tmp_path / "a.safetensors").write_bytes(content)
    assert main(["inspect", str(tmp_path / "a.safetensors")]) == 1
    err = capsys.readouterr().err
    assert expected in err
    assert len(err.splitlines()) == 1


def test_a_truncated_file_and_none_at_all(tmp_path):
    path = write_hollow(tmp_path / "a.safetensors", {"a": [4, 4]})
    with path.open("rb+") as file:
        file.truncate(path.stat().st_size - 3)
    with pytest.raises(SgmError, match="truncated: it has"):
        inspect(path)
    with pytest.raises(SgmError, match="no such file"):
        inspect(tmp_path / "b.safetensors")
    with pytest.raises(SgmError, match="no checkpoint here"):
        inspect(tmp_path)
