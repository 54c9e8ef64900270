"""The configs of public models at a tenth of the width, with random weights: checkpoints that tests draw with."""

from pathlib import Path

import torch

from sgm_core.building.fresh import build_engine
from sgm_core.checkpoints.files import save_weights
from sgm_core.config.api import Config, load_config
from tests.support.tiny_transformers import write_clip

NETWORK = {"model_channels": 32, "num_head_channels": 16, "num_res_blocks": 1}
WIDTH, PROJECTED, OUTDIM = 32, 20, 8  # of the tiny CLIP's text, of what it projects to, and of a number
AUTOENCODER = "{use: %s, ch: 32, ch_mult: [1, 2], num_res_blocks: 1}"  # a factor of 2
HALF = "ch: 32, ch_mult: [1, 2], num_res_blocks: 1"
FRAMES = 3

IMAGES = ("sd_xl_base", "sd_xl_refiner", "sd_2_1", "sd_2_1_768", "sd_1_5")
VIDEOS = ("svd", "svd_image_decoder", "sv3d_u", "sv3d_p")


def tiny_config(name: str, clip: Path, *overrides: str) -> Config:
    """A shipped config, narrow and shallow, with a CLIP of `write_clip` for all of its encoders, and overrides."""
    changes: dict[str, object] = {f"network.{key}": value for key, value in NETWORK.items()}
    changes["network.channel_mult"] = "[1, 2]"
    changes["network.attention_resolutions"] = "[2]"
    if name == "sd_1_5":
        changes["network.num_head_channels"] = -1
        changes["network.num_heads"] = 2
    slots = "conditioner.embedders"
    if name in IMAGES:
        changes |= {"latent_shape": "[4, 8, 8]", "first_stage": AUTOENCODER % "autoencoder_kl"}
        texts = [0, 1] if name == "sd_xl_base" else [0]
        numbers = {"sd_xl_base": (2, 3, 4), "sd_xl_refiner": (1, 2, 3)}.get(name, ())
        for i in texts:
            changes |= {f"{slots}[{i}].embedder.model": clip, f"{slots}[{i}].embedder.max_length": 16}
        if name == "sd_xl_base":
            changes[f"{slots}[0].embedder.layer_idx"] = 2
        if numbers:
            count = 6 if name == "sd_xl_base" else 5
            changes["network.adm_in_channels"] = PROJECTED + OUTDIM * count
            changes["network.transformer_depth"] = "[1, 1]" if name == "sd_xl_base" else 1
        changes["network.context_dim"] = "[32, 32]" if name == "sd_xl_refiner" else WIDTH * len(texts)
    else:
        first = name in ("svd", "svd_image_decoder")
        numbers = (1, 2, 4) if first else (2, 3, 4) if name == "sv3d_p" else (2,)
        frame = 3 if first else 1
        changes |= {
            "latent_shape": "[4, 8, 8]",
            "network.num_video_frames": FRAMES,
            "network.context_dim": PROJECTED,
            "network.adm_in_channels": OUTDIM * len(numbers),
            f"{slots}[0].embedder.embedder.model": clip,
            f"{slots}[{frame}].embedder.encoder": AUTOENCODER % "autoencoder_kl_mode",
        }
        if name == "svd":
            changes |= {
                "first_stage.encoder": f"{{use: conv, {HALF}}}",
                "first_stage.decoder": f"{{use: temporal, {HALF}}}",
            }
        elif name == "svd_image_decoder":
            changes["first_stage"] = AUTOENCODER % "autoencoder_kl"
        else:
            changes["first_stage.decoder"] = f"{{use: conv, {HALF}}}"
    for i in numbers:
        changes[f"{slots}[{i}].embedder.outdim"] = OUTDIM
    return load_config(name, overrides=[*(f"model.{key}={value}" for key, value in changes.items()), *overrides])


def write_checkpoint(name: str, folder: Path, *overrides: str, with_config: bool = True, seed: int = 0) -> Path:
    """Random weights of the tiny version, in a file with its config, or with the config as `NAME.yaml` beside it."""
    clip = write_clip(folder / "clip")
    config = tiny_config(name, clip, *overrides)
    torch.manual_seed(seed)
    engine = build_engine(config)
    for part in (engine.model, engine.first_stage_model):
        for parameter in part.parameters():
            if not parameter.any():  # what starts as zero hides all that comes before it
                torch.nn.init.normal_(parameter, std=0.05)
    path = folder / f"{name}.safetensors"
    save_weights(engine, path, engine.provenance if with_config else None)
    if not with_config:
        path.with_suffix(".yaml").write_text(config.to_yaml())
    return path
