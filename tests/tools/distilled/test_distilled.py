"""Who trains on a distilled model is warned, before anything is built."""

import argparse
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import sgm_core as sgm
from sgm_plugins.tools.distilled.hooks import before_training

PREFIX = "model.diffusion_model."
Z_IMAGE = [f"{PREFIX}cap_pad_token", f"{PREFIX}layers.0.attention.qkv.weight"]
STABLE_DIFFUSION = [f"{PREFIX}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"]


def write(path: Path, keys: list[str]) -> Path:
    save_file({key: torch.zeros(2, 2) for key in keys}, path)
    return path


def asked(*overrides: str) -> None:
    config = sgm.load_config("z_image_turbo_lora", overrides=overrides)
    assert before_training(argparse.Namespace(), config, Path("runs/new")) is None


def test_a_plain_fine_tune_of_a_distilled_model_warns(tmp_path):
    base = write(tmp_path / "base.safetensors", Z_IMAGE)
    with pytest.warns(UserWarning, match=r"base\.safetensors: Z-Image-Turbo.*8 steps.*model\.adapter: lora"):
        asked(f"model.init_from={base}", "model.adapter=null")


def test_an_adapter_another_model_and_no_base_do_not(tmp_path):
    base = write(tmp_path / "base.safetensors", Z_IMAGE)
    other = write(tmp_path / "other.safetensors", STABLE_DIFFUSION)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asked(f"model.init_from={base}")
        asked(f"model.init_from={other}", "model.adapter=null")
        asked("model.init_from=null", "model.adapter=null")
        asked(f"model.init_from={tmp_path / 'none.safetensors'}", "model.adapter=null")
