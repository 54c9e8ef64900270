"""Stable Diffusion 3 and 3.5: Esser et al. 2024, arXiv:2403.03206."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from sgm_core.checkpoints.family import Family, Form, Found, Model, Rule, Shapes, expanded
from sgm_core.checkpoints.layouts import CONDITIONER, FIRST_STAGE, NETWORK
from sgm_core.errors import SgmError
from sgm_plugins.families import built, settings, text, vae
from sgm_plugins.families.flux_folder import t5_settings, tokenizer_class_of
from sgm_plugins.families.sd3_names import transformer_rules
from sgm_plugins.families.vae import first_stage, vae_rules

TRANSFORMER = "transformer."
HEAD = 64
"""The published ones' width of a head."""

AUTOENCODER = {
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 16,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "shift_factor": 0.0609,
    "scaling_factor": 1.5305,
}
"""The published one's settings, by the names of diffusers."""

SHIFT = 3.0
T5_TOKENS = 256
TOWERS = {"text_encoder": "clip_l", "text_encoder_2": "clip_g", "text_encoder_3": "t5xxl"}
"""The text encoders: the part of diffusers -> the name in the file of its authors."""
HUB = {"text_encoder": "openai/clip-vit-large-patch14", "text_encoder_2": "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k"}
"""The CLIPs, by their names on the hub, where a file has them and no place says how large they are."""

_BLOCK = re.compile(r"joint_blocks\.(\d+)\.")


def size(depth: int, width: int, table: int, qk_norm: bool) -> dict[str, tuple[int, ...] | None]:
    """What tells a published transformer from others."""
    return {
        f"{NETWORK}pos_embed": (1, table**2, width),
        f"{NETWORK}joint_blocks.{depth - 1}.x_block.attn.qkv.weight": (3 * width, width),
        f"{NETWORK}joint_blocks.{depth}.x_block.attn.qkv.weight": None,
        f"{NETWORK}joint_blocks.0.x_block.attn.ln_q.weight": (HEAD,) if qk_norm else None,
    }


class StableDiffusion3(Family):
    """Two CLIPs and T5, a transformer with a stream for the image and one for the text."""

    title = "Stable Diffusion 3"
    license = "Stability AI Community License"
    forms = (
        Form(
            "diffusers",
            "a folder of diffusers",
            (r"transformer\.transformer_blocks\.0\.norm1_context\.linear\.", r"transformer\.pos_embed\.proj\."),
            parts=("transformer", "vae", *TOWERS),
        ),
        Form(
            "original",
            "a model in the layout of its authors",
            (r"model\.diffusion_model\.joint_blocks\.0\.x_block\.",),
            (re.escape(CONDITIONER),),
        ),
        Form("comfy", "a transformer alone", (r"joint_blocks\.0\.x_block\.",)),
        Form(
            "sgm",
            "a model in the layout of generative-models",
            (r"model\.diffusion_model\.joint_blocks\.0\.x_block\.",),
        ),
    )
    models = (
        Model(
            "Stable Diffusion 3 medium",
            shapes=size(24, 1536, 192, qk_norm=False),
            reason="3.5 medium took its place; a folder of it draws",
        ),
        Model("Stable Diffusion 3.5 medium", "sd3_5_medium", size(24, 1536, 384, qk_norm=True)),
        Model("Stable Diffusion 3.5 large", "sd3_5_large", size(38, 2432, 192, qk_norm=True)),
    )
    lora_forms = ("diffusers",)
    lora_prefixes: ClassVar = {TRANSFORMER: "unet_", "diffusion_model.": "unet_"}

    def rules(self, form: str, keys: Collection[str]) -> Iterable[Rule]:
        """See `Family`. Parts in places of their own have their names before their keys, in every form."""
        if form == "comfy":
            yield Rule(NETWORK.rstrip("."), "")
        elif form == "original":
            yield Rule(NETWORK.rstrip("."), NETWORK.rstrip("."))
            yield Rule(FIRST_STAGE.rstrip("."), FIRST_STAGE.rstrip("."))
        elif form == "diffusers":
            yield from transformer_rules(NETWORK, TRANSFORMER, keys)
        both = form == "diffusers"
        if any(key.startswith("vae.decoder.up.") for key in keys):
            yield Rule(FIRST_STAGE.rstrip("."), "vae")
        elif any(key.startswith(("vae.", FIRST_STAGE) if both else "vae.") for key in keys):
            yield from vae_rules(keys)
        for i, (part, name) in enumerate(TOWERS.items()):
            ours = f"{CONDITIONER}embedders.{i}.transformer"
            if form == "original" and any(key.startswith("text_encoders.") for key in keys):
                # some files have them; written are those without, as the newer ones are
                yield Rule(ours, f"text_encoders.{name}.transformer")
            there = [key for key in keys if key.startswith(f"{part}.")]
            if not both and not there:
                continue
            bare = i < 2 and there and not any(key.startswith(f"{part}.text_model.") for key in there)
            yield Rule(f"{ours}.text_model" if bare else ours, part)
            if bare:  # newer versions of transformers leave it out
                yield Rule(f"{ours}.text_projection", f"{part}.text_projection")

    def config(self, form: str, shapes: Shapes, found: Found) -> Mapping[str, Any] | None:
        """See `Family`."""
        pieces, _ = expanded(self.rules(form, shapes), shapes)
        ours = {piece.ours: shapes[piece.theirs] for piece in pieces if piece.is_name} if pieces else shapes
        network = network_of(ours, found.told)
        built.check_widths(found, ("text_encoder_3", "d_model", network["context_dim"]))
        has_t5 = "text_encoder_3" in found.places or any(key.startswith("text_encoders.t5") for key in shapes)
        stage = found.told.get("vae/config", AUTOENCODER)
        side = 1024 // 2 ** (len(stage["block_out_channels"]) - 1)
        guider = {"use": "cfg", "scale": 4.5 if network["qk_norm"] else 7.0}
        drawing: dict[str, Any] = {"sampler": {"num_steps": 28, "guider": guider}}
        if "scheduler" not in found.places:
            grid = {"use": "shifted", "shift": SHIFT, "discretization": {"use": "flow", "t_min": 0.002994012}}
            drawing["sampler"] |= {"use": "euler_edm", "discretization": grid}
            drawing["denoiser"] = {"use": "continuous", "scaling": "flow"}
        return {
            "model": {
                "use": "diffusion",
                "input_key": "image",
                "latent_shape": [network["in_channels"], side, side],
                "network": network | ({} if has_t5 else {"second_tokens": T5_TOKENS}),
                "first_stage": first_stage(stage, "autoencoder_kl"),
                "conditioner": {"use": "general", "embedders": slots(found, has_t5)},
                **drawing,
            }
        }

    def folder(self, form: str, shapes: Shapes, config: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """See `Family`."""
        if form != "diffusers":
            return None
        index: dict[str, Any] = {
            "_class_name": "StableDiffusion3Pipeline",
            "transformer": ["diffusers", "SD3Transformer2DModel"],
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            **{part: [None, None] for part in ("vae", "image_encoder", "feature_extractor")},
        }
        shift = settings.value(config, "model.sampler.discretization.shift")
        told: dict[str, Any] = {
            "transformer/config": transformer_settings(shapes, config),
            "scheduler/scheduler_config": {
                "_class_name": "FlowMatchEulerDiscreteScheduler",
                "num_train_timesteps": 1000,
                "shift": 1.0 if shift is None else shift,
            },
            "model_index": index,
        }
        stage = {key.removeprefix(FIRST_STAGE): shape for key, shape in shapes.items() if key.startswith(FIRST_STAGE)}
        if stage:
            told["vae/config"] = settings.vae_settings(config, stage, *vae.size(stage))
            index["vae"] = ["diffusers", "AutoencoderKL"]
        for i, part in enumerate(TOWERS):
            tokenizer = part.replace("text_encoder", "tokenizer")
            index |= {part: [None, None], tokenizer: [None, None]}
            start = f"{CONDITIONER}embedders.{i}.transformer."
            tower = {key.removeprefix(start): shape for key, shape in shapes.items() if key.startswith(start)}
            if not tower:
                continue
            embedder = settings.value(config, "model.conditioner.embedders")[i]["embedder"]
            if part == "text_encoder_3":
                told[f"{part}/config"] = t5_settings(tower)
                classes = ("T5EncoderModel", "T5TokenizerFast")
            else:
                width = tower["text_projection.weight"][0]
                told[f"{part}/config"] = settings.text_settings(embedder, tower, text.depth(tower), width)
                classes = ("CLIPTextModelWithProjection", "CLIPTokenizer")
            read = embedder.get("tokenizer") or embedder.get("model")
            told[tokenizer] = None if read is None else Path(read)
            index[part] = ["transformers", classes[0]]
            index[tokenizer] = ["transformers", tokenizer_class_of(read) or classes[1]]
        return told


def transformer_settings(shapes: Shapes, config: Mapping[str, Any]) -> dict[str, Any]:
    """Of an `SD3Transformer2DModel`.

    Args:
        shapes: of the model's tensors, by our keys.
        config: of the model, as plain data.
    """
    own = settings.value(config, "model.network")
    width = {"attention_head_dim": own["dim"] // own["num_heads"]}
    network = network_of(shapes, {"transformer/config": width})
    return {
        "_class_name": "SD3Transformer2DModel",
        "sample_size": own.get("base_size", 64) * network["patch_size"],
        "patch_size": network["patch_size"],
        "in_channels": network["in_channels"],
        "out_channels": network["out_channels"],
        "num_layers": network["depth"],
        **width,
        "num_attention_heads": network["num_heads"],
        "joint_attention_dim": network["context_dim"],
        "caption_projection_dim": network["dim"],
        "pooled_projection_dim": network["vector_dim"],
        "pos_embed_max_size": network["pos_embed_max_size"],
        "dual_attention_layers": list(range(network["dual_attention"])),
        "qk_norm": "rms_norm" if network["qk_norm"] else None,
    }


def slots(found: Found, has_t5: bool) -> list[dict[str, Any]]:
    """The embedders: of both CLIPs the tokens before the last layer and the projected text, of T5 the tokens."""
    prompt = {"input_key": "txt", "ucg_rate": 0.1, "ucg_value": "", "drop_group": "prompt"}
    hidden = {"layer": "hidden", "layer_idx": -2, "return_pooled": True, "projected": True, "load_weights": False}
    made = []
    for part, hub in HUB.items():
        clip = (
            built.clip(found, part, **hidden) if part in found.places else {"use": "clip_text", "model": hub, **hidden}
        )
        tokenizer = part.replace("text_encoder", "tokenizer")
        if tokenizer in found.places:
            clip["tokenizer"] = str(found.places[tokenizer])
        made.append({**prompt, "embedder": clip})
    if has_t5:
        t5: dict[str, Any] = {"use": "t5", "max_length": T5_TOKENS, "load_weights": False}
        t5["model"] = str(found.places.get("text_encoder_3", "google/t5-v1_1-xxl"))
        if "tokenizer_3" in found.places:
            t5["tokenizer"] = str(found.places["tokenizer_3"])
        made.append({**prompt, "output": "context_2", "embedder": t5})
    return made


def network_of(shapes: Shapes, told: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a network with these tensors.

    Args:
        shapes: by our keys.
        told: the JSON files of its folder.

    Raises:
        SgmError: the width of a head is not known.
    """
    own = {key.removeprefix(NETWORK): shape for key, shape in shapes.items() if key.startswith(NETWORK)}
    blocks = {int(found[1]) for found in map(_BLOCK.match, own) if found}
    dual = {int(found[1]) for key in own if ".attn2." in key and (found := _BLOCK.match(key))}
    width, channels, patch, _ = own["x_embedder.proj.weight"]
    norm = next((shape for key, shape in own.items() if key.endswith("attn.ln_q.weight")), None)
    said = told.get("transformer/config") or {}
    head = norm[0] if norm else said.get("attention_head_dim", HEAD)
    if width % head or dual not in (set(), set(range(len(dual)))):
        raise SgmError(f"heads of width {head} for tokens of width {width}: give the transformer's config.json")
    out = own["final_layer.linear.weight"][0] // patch**2
    return {
        "use": "mmdit",
        "depth": max(blocks) + 1,
        "dim": width,
        "num_heads": width // head,
        "in_channels": channels,
        "out_channels": out,
        "patch_size": patch,
        "context_dim": own["context_embedder.weight"][1],
        "vector_dim": own["y_embedder.mlp.0.weight"][1],
        "pos_embed_max_size": round(own["pos_embed"][1] ** 0.5),
        "base_size": max(said.get("sample_size", 128) // patch, 1),
        "qk_norm": norm is not None,
        "dual_attention": len(dual),
    }
