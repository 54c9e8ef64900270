"""The JSON files of a folder of diffusers that holds FLUX.1 or Chroma."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sgm_core.checkpoints.family import Shapes
from sgm_core.checkpoints.layouts import CONDITIONER, FIRST_STAGE
from sgm_core.errors import SgmError
from sgm_plugins.families import settings, text, vae
from sgm_plugins.reading import read_object

_T5_BLOCK = re.compile(r"encoder\.block\.(\d+)\.")


def transformer_settings(network: Mapping[str, Any]) -> dict[str, Any]:
    """Of a `FluxTransformer2DModel`, or a `ChromaTransformer2DModel`.

    Args:
        network: our config of it, with all sizes.

    Raises:
        SgmError: a width that diffusers does not have.
    """
    if network["mlp_ratio"] != 4:
        raise SgmError(f"mlp_ratio is {network['mlp_ratio']:g}; the transformer of diffusers has 4")
    approximates = network.get("approximator_depth") is not None
    found = {
        "_class_name": "ChromaTransformer2DModel" if approximates else "FluxTransformer2DModel",
        "patch_size": 1,  # patches are the pipeline's business there
        "in_channels": 4 * network["in_channels"],
        "out_channels": 4 * network["out_channels"],
        "num_layers": network["depth"],
        "num_single_layers": network["depth_single_blocks"],
        "attention_head_dim": network["hidden_size"] // network["num_heads"],
        "num_attention_heads": network["num_heads"],
        "joint_attention_dim": network["context_dim"],
        "axes_dims_rope": network["axes_dim"],
    }
    if approximates:
        return found | {
            "approximator_num_channels": network["approximator_channels"],
            "approximator_hidden_dim": network["approximator_dim"],
            "approximator_layers": network["approximator_depth"],
        }
    return found | {"pooled_projection_dim": network["vector_dim"], "guidance_embeds": network["guidance_embed"]}


def scheduler_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of a `FlowMatchEulerDiscreteScheduler`."""
    grid = settings.value(config, "model.sampler.discretization")
    shift = grid if isinstance(grid, Mapping) else {}
    return {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "num_train_timesteps": 1000,
        "shift": shift.get("shift", 1.0),
        "use_dynamic_shifting": "base_shift" in shift,
        "base_shift": shift.get("base_shift", 0.5),
        "max_shift": shift.get("max_shift", 1.15),
        "base_image_seq_len": shift.get("base_tokens", 256),
        "max_image_seq_len": shift.get("max_tokens", 4096),
        "shift_terminal": shift.get("terminal"),
    }


def t5_settings(shapes: Shapes) -> dict[str, Any]:
    """Of a `T5EncoderModel` with these tensors, by its own names; with gates its activation is GELU, as in T5 1.1."""
    first = "encoder.block.0.layer"
    buckets, heads = shapes[f"{first}.0.SelfAttention.relative_attention_bias.weight"]
    gated = f"{first}.1.DenseReluDense.wi_0.weight" in shapes
    vocabulary, width = shapes["shared.weight"]
    return {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "vocab_size": vocabulary,
        "d_model": width,
        "d_kv": shapes[f"{first}.0.SelfAttention.q.weight"][0] // heads,
        "d_ff": shapes[f"{first}.1.DenseReluDense.{'wi_0' if gated else 'wi'}.weight"][0],
        "num_layers": 1 + max(int(found[1]) for key in shapes if (found := _T5_BLOCK.match(key))),
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
        "feed_forward_proj": "gated-gelu" if gated else "relu",
    }


def folder_files(
    shapes: Shapes, config: Mapping[str, Any], network: Mapping[str, Any], pipeline: str, texts: Mapping[str, int]
) -> dict[str, Any]:
    """The files of a folder, see `Family.folder`.

    Args:
        shapes: of the model's tensors, by our keys.
        config: of the model, as plain data.
        network: our config of the network, with all sizes.
        pipeline: the class of diffusers.
        texts: the text encoders: the part of diffusers -> our embedder. Of two the first is CLIP.
    """
    transformer = transformer_settings(network)
    index: dict[str, Any] = {
        "_class_name": pipeline,
        "transformer": ["diffusers", transformer["_class_name"]],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "vae": [None, None],
        "image_encoder": [None, None],
        "feature_extractor": [None, None],
    }
    told: dict[str, Any] = {
        "transformer/config": transformer,
        "scheduler/scheduler_config": scheduler_settings(config),
        "model_index": index,
    }
    stage = {key.removeprefix(FIRST_STAGE): shape for key, shape in shapes.items() if key.startswith(FIRST_STAGE)}
    if stage:
        told["vae/config"] = settings.vae_settings(config, stage, *vae.size(stage))
        index["vae"] = ["diffusers", "AutoencoderKL"]
    for part, i in texts.items():
        tokenizer = part.replace("text_encoder", "tokenizer")
        index |= {part: [None, None], tokenizer: [None, None]}
        start = f"{CONDITIONER}embedders.{i}.transformer."
        tower = {key.removeprefix(start): shape for key, shape in shapes.items() if key.startswith(start)}
        if not tower:
            continue
        embedder = settings.value(config, "model.conditioner.embedders")[i]["embedder"]
        clip = len(texts) > 1 and i == 0
        if clip:
            told[f"{part}/config"] = settings.text_settings(embedder, tower, text.depth(tower), None)
        else:
            told[f"{part}/config"] = t5_settings(tower)
        model = embedder.get("tokenizer") or embedder.get("model")
        told[tokenizer] = None if model is None else Path(model)
        index[part] = ["transformers", "CLIPTextModel" if clip else "T5EncoderModel"]
        index[tokenizer] = [
            "transformers",
            tokenizer_class_of(model) or ("CLIPTokenizer" if clip else "T5TokenizerFast"),
        ]
    return told


def tokenizer_class_of(tokenizer: Any) -> str | None:
    """What a local folder says that its tokenizer is."""
    file = Path(tokenizer or "") / "tokenizer_config.json"
    return read_object(file).get("tokenizer_class") if tokenizer and file.is_file() else None
