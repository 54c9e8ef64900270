"""The JSON files of a folder of diffusers: what its classes need to know to be built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sgm_core.checkpoints.family import Shapes
from sgm_core.errors import SgmError
from sgm_plugins.families.unet import Level
from sgm_plugins.reading import read_object

Config = Mapping[str, Any]
"""Of a model, as plain data."""

TEXT_TOWERS = {768: (12, "quick_gelu"), 1024: (16, "gelu"), 1280: (20, "gelu")}
"""Width -> heads and activation, of the towers of Stable Diffusion: CLIP-L, ViT-H, ViT-bigG."""


def unet_settings(config: Config, shapes: Shapes, down: Sequence[Level], up: Sequence[Level]) -> dict[str, Any]:
    """Of a `UNet2DConditionModel`.

    Args:
        config: of the model: how wide a head is, which no shape says.
        shapes: of the network, by our keys without the prefix.
        down, up: its levels.
    """
    head, heads = value(config, "model.network.num_head_channels"), value(config, "model.network.num_heads")
    if not any(isinstance(number, int) and number > 0 for number in (head, heads)):
        raise SgmError("diffusers needs the size of a head: model.network.num_head_channels, or num_heads")
    widths, depths, i = [], [], 1
    for level in down:
        widths.append(shapes[f"input_blocks.{i}.0.out_layers.3.weight"][0])
        depths.append(depth(shapes, f"input_blocks.{i}.1") if level.attention else 1)
        i += level.resnets + level.sampler
    middle = depth(shapes, "middle_block.1")
    context = shapes["middle_block.1.transformer_blocks.0.attn2.to_k.weight"][1]
    ups, i = [], 0
    for level in up:
        ups.append(depth(shapes, f"output_blocks.{i}.1") if level.attention else 1)
        i += level.resnets
    if not down[-1].attention:
        depths[-1] = middle  # diffusers takes the last one for the middle
    latent = value(config, "model.latent_shape")
    vector = shapes.get("label_emb.0.0.weight")
    settings: dict[str, Any] = {
        "_class_name": "UNet2DConditionModel",
        "sample_size": latent[-1] if latent else None,
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "out_channels": shapes["out.2.weight"][0],
        "block_out_channels": widths,
        "layers_per_block": down[0].resnets,
        "down_block_types": ["CrossAttnDownBlock2D" if level.attention else "DownBlock2D" for level in down],
        "up_block_types": ["CrossAttnUpBlock2D" if level.attention else "UpBlock2D" for level in up],
        "transformer_layers_per_block": depths,
        # the number of heads, whatever it is called
        "attention_head_dim": [width // head if isinstance(head, int) and head > 0 else heads for width in widths],
        "cross_attention_dim": context,
        "use_linear_projection": len(shapes["middle_block.1.proj_in.weight"]) == 2,
    }
    if not up[0].attention:
        ups[0] = middle
    if ups != depths[::-1]:
        raise SgmError(f"transformers of depth {ups} going up and {depths} going down do not exist in diffusers")
    if vector is not None:
        numbers = [slot["embedder"] for slot in value(config, "model.conditioner.embedders")]
        widths_of = {e.get("outdim") for e in numbers if isinstance(e, dict) and e.get("use") == "timestep"}
        if len(widths_of) != 1:
            raise SgmError("diffusers knows numbers of one width beside the prompt (timestep.outdim)")
        settings |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": widths_of.pop(),
            "projection_class_embeddings_input_dim": vector[1],
        }
    return settings


def depth(shapes: Shapes, start: str) -> int:
    """Blocks of a transformer."""
    found = {key.removeprefix(f"{start}.transformer_blocks.").partition(".")[0] for key in shapes
             if key.startswith(f"{start}.transformer_blocks.")}  # fmt: skip
    return len(found)


def vae_settings(config: Config, shapes: Shapes, levels: int, blocks: int) -> dict[str, Any]:
    """Of an `AutoencoderKL`; arguments as `unet_settings`."""
    latent = value(config, "model.latent_shape")
    widths = [shapes[f"encoder.down.{n}.block.0.conv1.weight"][0] for n in range(levels)]
    stage = value(config, "model.first_stage")
    stage = stage if isinstance(stage, Mapping) else {}
    whole, shift, scale = value(config, "model.scale_factor"), stage.get("shift", 0.0), stage.get("scale", 1.0)
    normalized: dict[str, Any] = {"scaling_factor": 1.0 if whole is None else whole}
    if isinstance(shift, list) or isinstance(scale, list):
        channels = shapes["decoder.conv_in.weight"][1]
        shifts, scales = (given if isinstance(given, list) else [given] * channels for given in (shift, scale))
        normalized |= {"latents_mean": shifts, "latents_std": [1 / number for number in scales]}
    else:
        normalized["scaling_factor"] *= scale
        normalized |= {"shift_factor": shift} if shift else {}
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "block_out_channels": widths,
        "layers_per_block": blocks - 1,  # the encoder's; the decoder has one more on both sides
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "sample_size": latent[-1] * 2 ** (levels - 1) if latent else None,
        "norm_num_groups": stage.get("groups", 32),
        "mid_block_add_attention": "encoder.mid.attn_1.q.weight" in shapes,
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
        **normalized,
        "force_upcast": value(config, "model.first_stage_autocast") is False,
    }


def text_settings(embedder: Mapping[str, Any], shapes: Shapes, blocks: int, projection: int | None) -> dict[str, Any]:
    """Of a `CLIPTextModel`, or with a projection of a `CLIPTextModelWithProjection`.

    Args:
        embedder: its arguments in our config; a folder that `model` names says what no shape does.
        shapes: by the names of transformers.
    """
    known = folder_settings(embedder.get("model"))
    vocabulary, width = shapes["text_model.embeddings.token_embedding.weight"]
    if not known and width not in TEXT_TOWERS:
        raise SgmError(f"a text encoder of width {width}: `model` in its config must be a folder with its config.json")
    heads, activation = TEXT_TOWERS.get(width, (0, ""))
    return {
        "architectures": ["CLIPTextModel" if projection is None else "CLIPTextModelWithProjection"],
        "model_type": "clip_text_model",
        "hidden_size": width,
        "intermediate_size": shapes["text_model.encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": blocks,
        "num_attention_heads": known.get("num_attention_heads", heads),
        "hidden_act": known.get("hidden_act", activation),
        "max_position_embeddings": shapes["text_model.embeddings.position_embedding.weight"][0],
        "vocab_size": vocabulary,
        "projection_dim": projection or known.get("projection_dim", width),
        **{key: known[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if key in known},
    }


def folder_settings(model: Any) -> dict[str, Any]:
    """What the `config.json` of a local folder says of its text tower; empty where there is none."""
    if model is None or not (Path(model) / "config.json").is_file():
        return {}
    found = read_object(Path(model) / "config.json")
    return {"hidden_act": "quick_gelu", **found.get("text_config", found)}


def scheduler_settings(config: Config) -> dict[str, Any]:
    """Of an `EulerDiscreteScheduler`, for the noise levels of Stable Diffusion."""
    predicts_velocity = value(config, "model.denoiser.scaling") in ("v", {"use": "v"})
    return {
        "_class_name": "EulerDiscreteScheduler",
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "num_train_timesteps": 1000,
        "prediction_type": "v_prediction" if predicts_velocity else "epsilon",
        "steps_offset": 1,
        "timestep_spacing": "leading",
    }


def model_index(parts: Sequence[str], is_xl: bool) -> dict[str, Any]:
    """The table of contents of a folder.

    Args:
        parts: its sub-folders.
        is_xl: Stable Diffusion XL, not 2.
    """
    refiner = is_xl and "text_encoder" not in parts
    texts = ["", "_2"] if is_xl else [""]
    index: dict[str, Any] = {
        "_class_name": "StableDiffusionPipeline"
        if not is_xl
        else "StableDiffusionXLImg2ImgPipeline"
        if refiner
        else "StableDiffusionXLPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    }
    for end in texts:
        there = f"text_encoder{end}" in parts
        encoder = "CLIPTextModelWithProjection" if end else "CLIPTextModel"
        index[f"text_encoder{end}"] = ["transformers", encoder] if there else [None, None]
        index[f"tokenizer{end}"] = ["transformers", "CLIPTokenizer"] if there else [None, None]
    if is_xl:
        index["force_zeros_for_empty_prompt"] = True
    if refiner:
        index["requires_aesthetics_score"] = True
    if not is_xl:
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
    return index


def value(config: Config, path: str) -> Any:
    """What a config says; None where it says nothing."""
    found: Any = config
    for word in path.split("."):
        found = found.get(word) if isinstance(found, Mapping) else None
    return found
