"""Pipelines of diffusers small enough for a test, as the folders that `save_pretrained` writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from support.networks import randomized
from support.tiny_transformers import LETTERS

CONTEXT = 24
"""Tokens of a text."""


def scaled(module: Any, gain: float = 1.0) -> Any:
    """Weights that depend on names and shapes alone; norms stay near one, so that pictures keep their contrast."""
    randomized(module)
    with torch.no_grad():
        for key, parameter in module.named_parameters():
            parameter.mul_(0.3 * gain if "norm" in key else gain)
            if "norm" in key and key.endswith("weight"):
                parameter.add_(1.0)
    return module.eval()


def clip_tokenizer(folder: Path, pad: str = "<|endoftext|>") -> Any:
    """A tokenizer of CLIP with a token for each letter."""
    from transformers import CLIPTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": pad}
    told = {"tokenizer_class": "CLIPTokenizer", "unk_token": "<|endoftext|>", "model_max_length": CONTEXT, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    return CLIPTokenizer.from_pretrained(folder)


def clip_text(width: int = 32, projected: bool = False, activation: str = "quick_gelu", layers: int = 3) -> Any:
    """A CLIP text encoder for `clip_tokenizer`."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    end = 2 * len(LETTERS) + 1
    config = CLIPTextConfig(
        hidden_size=width, intermediate_size=width + 8, num_hidden_layers=layers, num_attention_heads=4,
        vocab_size=end + 1, max_position_embeddings=CONTEXT, projection_dim=width - 4, hidden_act=activation,
        bos_token_id=end - 1, eos_token_id=end, pad_token_id=end,
    )  # fmt: skip
    return scaled((CLIPTextModelWithProjection if projected else CLIPTextModel)(config))


def vae(channels: int = 4, **more: Any) -> Any:
    """An autoencoder that halves the sides once."""
    from diffusers import AutoencoderKL

    options: dict[str, Any] = {
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "latent_channels": channels,
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "sample_size": 16,
        **more,
    }
    return scaled(AutoencoderKL(**options))


def unet(context: int, **more: Any) -> Any:
    """A network of Stable Diffusion."""
    from diffusers import UNet2DConditionModel

    options: dict[str, Any] = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": 4,
        "cross_attention_dim": context,
        **more,
    }
    return scaled(UNet2DConditionModel(**options))


def beta_schedule(**more: Any) -> dict[str, Any]:
    """Of Stable Diffusion's schedulers."""
    return {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", **more}


def sd_1(folder: Path, scheduler: Any = None) -> Any:
    """Stable Diffusion 1."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    scheduler = scheduler or DDIMScheduler(**beta_schedule(clip_sample=False, set_alpha_to_one=False, steps_offset=1))
    made = StableDiffusionPipeline(
        vae=vae(), text_encoder=clip_text(), tokenizer=clip_tokenizer(folder / "tokenizer"), unet=unet(32),
        scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    made.save_pretrained(folder)
    made.set_progress_bar_config(disable=True)
    return made


def sd_2(folder: Path, scheduler: Any = None) -> Any:
    """Stable Diffusion 2."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    prediction = {"prediction_type": "v_prediction", "clip_sample": False, "set_alpha_to_one": False}
    made = StableDiffusionPipeline(
        vae=vae(), text_encoder=clip_text(40, activation="gelu"), tokenizer=clip_tokenizer(folder / "tokenizer", "a"),
        unet=unet(40, use_linear_projection=True, attention_head_dim=(2, 4)),
        scheduler=scheduler or DDIMScheduler(**beta_schedule(steps_offset=1, **prediction)),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    made.save_pretrained(folder)
    made.set_progress_bar_config(disable=True)
    return made


def sd_xl(folder: Path, scheduler: Any = None, zeros: bool = True) -> Any:
    """Stable Diffusion XL."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    made = StableDiffusionXLPipeline(
        vae=vae(scaling_factor=0.13), text_encoder=clip_text(), tokenizer=clip_tokenizer(folder / "tokenizer"),
        text_encoder_2=clip_text(24, projected=True, activation="gelu"),
        tokenizer_2=clip_tokenizer(folder / "tokenizer_2", "a"),
        unet=unet(
            56, use_linear_projection=True, attention_head_dim=(2, 4), transformer_layers_per_block=(1, 2),
            addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=20 + 48,
        ),
        scheduler=scheduler or EulerDiscreteScheduler(**beta_schedule(timestep_spacing="leading", steps_offset=1)),
        force_zeros_for_empty_prompt=zeros, add_watermarker=False,
    )  # fmt: skip
    made.save_pretrained(folder)
    made.set_progress_bar_config(disable=True)
    return made


def t5(folder: Path, width: int = 24) -> tuple[Any, Any]:
    """T5's encoder and its tokenizer."""
    from support.tiny_transformers import write_t5
    from transformers import AutoTokenizer, T5EncoderModel

    folder.mkdir(parents=True, exist_ok=True)
    write_t5(folder)
    config = T5EncoderModel.from_pretrained(folder).config
    config.d_model = width
    torch.manual_seed(0)
    return T5EncoderModel(config).eval(), AutoTokenizer.from_pretrained(folder)


def flux(folder: Path, pipeline: str = "FluxPipeline") -> Any:
    """FLUX.1 [dev], or Kontext."""
    import diffusers

    tower, tokenizer = t5(folder.with_name(f"{folder.name}-t5"))
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=24, axes_dims_rope=(4, 6, 6), pooled_projection_dim=32, guidance_embeds=True,
    )  # fmt: skip
    made = getattr(diffusers, pipeline)(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
        vae=vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1, scaling_factor=0.4),
        text_encoder=clip_text(), tokenizer=clip_tokenizer(folder / "tokenizer"), text_encoder_2=tower,
        tokenizer_2=tokenizer, transformer=scaled(transformer),
    )  # fmt: skip
    made.save_pretrained(folder)
    made.set_progress_bar_config(disable=True)
    return made


def sd_3(folder: Path, with_t5: bool = True, **more: Any) -> Any:
    """Stable Diffusion 3."""
    import diffusers

    tower, tokenizer = t5(folder.with_name(f"{folder.name}-t5"), 64) if with_t5 else (None, None)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, num_layers=3, attention_head_dim=8, num_attention_heads=4,
        joint_attention_dim=64, caption_projection_dim=32, pooled_projection_dim=28 + 20,
        out_channels=4, pos_embed_max_size=12, **more,
    )  # fmt: skip
    made = diffusers.StableDiffusion3Pipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1, scaling_factor=0.4),
        text_encoder=clip_text(projected=True), tokenizer=clip_tokenizer(folder / "tokenizer"),
        text_encoder_2=clip_text(24, projected=True, activation="gelu"),
        tokenizer_2=clip_tokenizer(folder / "tokenizer_2", "a"),
        text_encoder_3=tower, tokenizer_3=tokenizer, transformer=scaled(transformer, 0.5),
    )  # fmt: skip
    made.save_pretrained(folder)
    made.set_progress_bar_config(disable=True)
    return made
