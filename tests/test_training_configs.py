"""The configs that train large models: each takes two steps at a small width, on images written here, and samples."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

pytest.importorskip("transformers")

from support.shipped import LARGE
from support.tiny_pipelines import t5
from support.tiny_transformers import write_clip, write_qwen3, write_t5

import sgm_core as sgm
from sgm_core.checkpoints.files import save_weights
from sgm_core.config.compose import shipped_configs
from sgm_core.runs.run import Run, start_run
from sgm_plugins.lora.merge import load_lora

QUICK = [
    "trainer.max_steps=2",
    "trainer.callbacks=[]",
    "trainer.enable_progress_bar=false",
    "trainer.log_every_n_steps=1",
]
QUICK += ["trainer.accumulate_grad_batches=1", "data.num_workers=0", "data.size=64", "data.batch_size=2"]
NETWORK = ["model.network.model_channels=32", "model.network.num_res_blocks=1", "model.network.channel_mult=[1,1,1]"]
AUTOENCODER = {"use": "autoencoder_kl", "ch": 32, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1}
STAGE = [f"model.first_stage.{key}={value}" for key, value in AUTOENCODER.items() if key != "use"]
SDXL = [
    *NETWORK,
    "model.network.num_head_channels=16",
    "model.network.transformer_depth=[0,1,1]",
    "model.network.context_dim=64",
    "model.network.adm_in_channels=1556",  # 20 of the pooled prompt, and six numbers
    f"model.first_stage={json.dumps(AUTOENCODER)}",
    "model.conditioner.embedders[0].embedder.layer_idx=2",
    *[f"model.conditioner.embedders[{i}].embedder.{what}" for i in (0, 1) for what in ("model=clip", "max_length=16")],
]
FLUX_NETWORK = {
    "hidden_size": 32,
    "num_heads": 2,
    "depth": 1,
    "depth_single_blocks": 1,
    "axes_dim": [4, 6, 6],
    "context_dim": 24,
}
SIXTEEN = {**AUTOENCODER, "embed_dim": 16, "z_channels": 16, "quant_conv": False}
CHROMA = [
    *[f"model.network.{key}={value}" for key, value in FLUX_NETWORK.items()],
    *[f"model.network.approximator_{what}" for what in ("depth=1", "dim=16", "channels=16")],
    f"model.first_stage={json.dumps(SIXTEEN)}",
    *[f"model.conditioner.embedders[{i}].embedder.{what}" for i in (0, 1) for what in ("model=t5", "max_length=12")],
]
FLUX = [
    *[f"model.network.{key}={value}" for key, value in FLUX_NETWORK.items()],
    "model.network.vector_dim=32",
    f"model.first_stage={json.dumps(SIXTEEN)}",
    *[f"model.conditioner.embedders[0].embedder.{what}" for what in ("model=clip", "max_length=16")],
    *[f"model.conditioner.embedders[1].embedder.{what}" for what in ("model=t5", "max_length=12")],
]
SD_3 = [
    "model.network={use: mmdit, depth: 2, dim: 32, num_heads: 2, pos_embed_max_size: 16}",
    *[f"model.network.{what}" for what in ("qk_norm=true", "dual_attention=1", "context_dim=64", "vector_dim=40")],
    f"model.first_stage={json.dumps(SIXTEEN)}",
    *[f"model.conditioner.embedders[{i}].embedder.{what}" for i in (0, 1) for what in ("model=clip", "max_length=16")],
    *[f"model.conditioner.embedders[2].embedder.{what}" for what in ("model=t5_wide", "max_length=12")],
]
Z_IMAGE = [
    "model.network={use: z_image, in_channels: 4, dim: 48, n_layers: 2, n_refiner_layers: 1, n_heads: 3}",
    "model.network.context_dim=24",
    "model.network.axes_dims=[4, 6, 6]",
    f"model.first_stage={json.dumps(AUTOENCODER)}",
    *[f"model.conditioner.embedders[{i}].embedder.max_length=24" for i in (0, 1)],
    "model.conditioner.embedders[0].embedder.model=qwen3",
]
SMALL = {
    "sd3_5_large_lora": SD_3,
    "sd3_5_medium_finetune": SD_3,
    "sd3_5_medium_lora": SD_3,
    "z_image_turbo_lora": Z_IMAGE,
    "chroma_lora": CHROMA,
    "flux_dev_finetune": FLUX,
    "flux_dev_lora": FLUX,
    "flux_schnell_lora": FLUX,
    "class_latent": [*NETWORK, *STAGE, "model.network.num_head_channels=16", "vars.classes=2"],
    "txt2img_clip": [
        *[*NETWORK, *STAGE],
        "model.network.channel_mult=[1,1,1,1]",
        "model.network.context_dim=32",
        *[f"model.conditioner.embedders[0].embedder.{what}" for what in ("model=clip", "max_length=16")],
    ],
    "sd_xl_finetune": SDXL,
    "sd_xl_lora": SDXL,
}
SIZES = {"original_size_as_tuple": [[64, 64]], "crop_coords_top_left": [[0, 0]], "target_size_as_tuple": [[64, 64]]}
BATCHES = {
    "class_latent": {"cls": [1]},
    "txt2img_clip": {"txt": ["a cat"]},
    "sd_xl_finetune": {"txt": ["a cat"]} | SIZES,
}
BATCHES["sd_xl_lora"] = BATCHES["sd_xl_finetune"]
BATCHES["z_image_turbo_lora"] = BATCHES["txt2img_clip"]
BATCHES |= {key: {"txt": ["a cat"]} for key in SMALL if key.startswith("sd3")}
BATCHES["chroma_lora"] = BATCHES["flux_schnell_lora"] = {"txt": ["a cat"]}
BATCHES["flux_dev_lora"] = BATCHES["flux_dev_finetune"] = {"txt": ["a cat"], "guidance": [3.5]}
BASES = {
    "sd_xl_lora": "sd_xl_base",
    "flux_dev_lora": "flux_dev",
    "flux_schnell_lora": "flux_schnell",
    "chroma_lora": "chroma",
    "z_image_turbo_lora": "z_image_turbo",
    "sd3_5_large_lora": "sd3_5_large",
    "sd3_5_medium_lora": "sd3_5_medium",
}
FILES = {"sd_xl_base": "sd_xl_base_1.0"}
"""What the configs call the weights of a model, if not by its name."""


def test_each_large_config_has_its_test_here():
    assert sorted(SMALL) == sorted(LARGE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the configs look for their files: images with captions and in classes, an autoencoder, SDXL."""
    folder = tmp_path_factory.mktemp("large")
    for i in range(4):
        image = Image.effect_noise((80, 64), 90).convert("RGB")
        for name in (f"data/images/{i}.png", f"data/classes/{'ab'[i % 2]}/{i}.png"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            image.save(folder / name)
        (folder / f"data/images/{i}.txt").write_text("a cat")
    write_clip(folder / "clip")
    write_t5(folder / "t5")
    write_qwen3(folder / "qwen3")
    for part in t5(folder / "t5_narrow", width=64):
        part.save_pretrained(folder / "t5_wide")
    (folder / "checkpoints").mkdir()
    torch.manual_seed(0)
    save_weights(sgm.build("first_stages", AUTOENCODER), folder / "checkpoints/autoencoder.safetensors", None)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, base in BASES.items():
            engine = sgm.build_engine(sgm.load_config(base, overrides=SMALL[name]))
            for parameter in engine.model.parameters():
                if not parameter.any():  # what starts as zero hides all that comes before it
                    torch.nn.init.normal_(parameter, std=0.05)
            save_weights(engine, folder / f"checkpoints/{FILES.get(base, base)}.safetensors", None)
    return folder


def trained(name: str, folder: Path, *overrides: str) -> Run:
    """Run it, below `runs`."""
    config = sgm.load_config(name, overrides=[*QUICK, *SMALL[name], *overrides])
    run = start_run(config, folder / "runs", f"{name}-{len(overrides)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert run.train() == 0
    return run


@pytest.mark.parametrize("name", LARGE)
def test_it_trains_two_steps_and_samples_one_image(name, folder, monkeypatch):
    if name in BASES:
        pytest.importorskip("peft")
    monkeypatch.chdir(folder)
    run = trained(name, folder)
    engine = sgm.load_engine(run.folder)
    shape = (16 if name.startswith(("flux", "chroma", "sd3")) else 4, 8, 8)
    images = engine.generate(BATCHES[name], shape=shape, num_steps=2)
    assert images.shape == (1, 3, 64, 64)
    assert images.isfinite().all()
    if name in BASES:
        base = sgm.build_engine(sgm.load_config(BASES[name], overrides=SMALL[name])).eval()
        base.load_weights(f"checkpoints/{FILES.get(BASES[name], BASES[name])}.safetensors")
        load_lora(base, run.folder)
        expected = base.generate(BATCHES[name], shape=shape, num_steps=2)
        torch.testing.assert_close(images, expected, rtol=1e-4, atol=1e-4)
        assert any(value.any() for key, value in engine.state_dict().items() if ".lora_B." in key)


def test_the_targets_that_the_lora_config_names_in_a_comment_are_of_both_text_encoders(folder, monkeypatch):
    pytest.importorskip("peft")
    monkeypatch.chdir(folder)
    (line,) = [line for line in shipped_configs()["sd_xl_lora"].read_text().splitlines() if "targets:" in line]
    targets = line.partition("targets: ")[2]
    engine = sgm.build_engine(
        sgm.load_config("sd_xl_lora", overrides=[*SMALL["sd_xl_lora"], f"model.adapter.targets={targets}"])
    )
    layers = engine.adapter.layers
    parts = {name.split(".")[2] if name.startswith("conditioner") else "network" for name in layers}
    assert parts == {"network", "0", "1"}
    assert sum(name.startswith("conditioner.embedders.0") for name in layers) == 3 * 6
    assert sum(name.startswith("conditioner.embedders.1") for name in layers) == 3 * 3


def test_text_to_image_reads_tar_shards_too(folder, monkeypatch):
    import tarfile

    monkeypatch.chdir(folder)
    with tarfile.open(folder / "0000.tar", "w") as tar:
        for file in sorted((folder / "data/images").iterdir()):
            tar.add(file, file.name)
    data = "data={use: webdataset, shards: 0000.tar, columns: {txt: txt}, size: 64, batch_size: 2}"
    assert trained("txt2img_clip", folder, data).folder.is_dir()


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("class_latent", "checkpoints/autoencoder.safetensors"),
        ("sd_xl_finetune", "checkpoints/sd_xl_base_1.0.safetensors"),
    ],
)
def test_without_its_weights_it_says_which_file_it_looks_for(name, missing, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip").symlink_to(folder / "clip")
    with pytest.raises(ValueError, match=rf"{name}\.yaml:\d+:\d+ model.*{missing}: no such"):
        sgm.build_engine(sgm.load_config(name, overrides=SMALL[name]))
