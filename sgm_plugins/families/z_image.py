"""Z-Image: arXiv:2511.22699."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from sgm_core.checkpoints.family import Family, Form, Found, Model, Rule, Shapes, expanded
from sgm_core.checkpoints.layouts import CONDITIONER, FIRST_STAGE, NETWORK
from sgm_core.errors import SgmError
from sgm_plugins.families import built, settings, vae
from sgm_plugins.families.flow_schedule import shifted_once
from sgm_plugins.families.z_image_names import z_image_rules
from sgm_plugins.reading import read_object

TRANSFORMER = "transformer."
TEXT_ENCODER = "text_encoder"
QWEN = "Qwen/Qwen3-4B"

HEAD, AXES = 128, [32, 48, 48]
"""The published width of a head, and how it is divided between the axes of a position."""

TURBO_SHIFT = 3.0
"""Of the times in the folder of the distilled model, which draws in 8 steps without guidance. The other one has 6."""

LENGTH = 512
"""Tokens of a text with its template."""

_BLOCK = re.compile(r"(layers|noise_refiner)\.(\d+)\.")


def _form(name: str, title: str, prefix: str, lacks: tuple[str, ...] = ()) -> Form:
    start = re.escape(prefix)
    return Form(name, title, (rf"{start}cap_pad_token$", rf"{start}layers\.0\.attention\.qkv\."), lacks)


class ZImage(Family):
    """Z-Image and Z-Image-Turbo, which differ in no key and no shape: a folder's scheduler tells."""

    title = "Z-Image"
    license = "Apache-2.0"
    distilled: ClassVar[str] = "Z-Image-Turbo, if it is that, is distilled to 8 steps without guidance"
    forms = (
        Form(
            "diffusers",
            "a folder of diffusers",
            (rf"{TRANSFORMER}cap_pad_token$", rf"{TRANSFORMER}layers\.0\.attention\.to_q\."),
            parts=("transformer", "vae", TEXT_ENCODER),
        ),
        _form("original", "a transformer of Z-Image in a file of its own", ""),
        _form(
            "comfy",
            "a transformer of Z-Image in the layout of ComfyUI",
            NETWORK,
            (rf"{re.escape(CONDITIONER)}|{re.escape(FIRST_STAGE)}",),
        ),
        _form("sgm", "a model in the layout of generative-models", NETWORK),
    )
    models = (
        Model(
            "Z-Image-Turbo",
            "z_image_turbo",
            {
                f"{NETWORK}x_embedder.weight": (3840, 64),
                f"{NETWORK}cap_embedder.1.weight": (3840, 2560),
                f"{NETWORK}layers.29.feed_forward.w1.weight": (10240, 3840),
                f"{NETWORK}layers.30.feed_forward.w1.weight": None,
            },
        ),
    )
    lora_forms = ("diffusers",)
    lora_prefixes: ClassVar = {TRANSFORMER: "unet_", "diffusion_model.": "unet_"}

    def rules(self, form: str, keys: Collection[str]) -> Iterable[Rule]:
        """See `Family`."""
        if form == "original":
            yield Rule(NETWORK.rstrip("."), "")
        elif form == "comfy":
            yield Rule(NETWORK.rstrip("."), NETWORK.rstrip("."))
        elif form == "diffusers":
            yield from z_image_rules(NETWORK, TRANSFORMER, keys)
            ours = f"{CONDITIONER}embedders.0.transformer"
            with_head = any(key.startswith(f"{TEXT_ENCODER}.model.") for key in keys)
            yield Rule(ours, f"{TEXT_ENCODER}.model" if with_head else TEXT_ENCODER)
            yield Rule(f"{ours}.lm_head", f"{TEXT_ENCODER}.lm_head")
            if any(key.startswith(("vae.", FIRST_STAGE)) for key in keys):
                yield from vae.vae_rules(keys)

    def config(self, form: str, shapes: Shapes, found: Found) -> Mapping[str, Any]:
        """See `Family`."""
        pieces = expanded(self.rules(form, shapes), shapes)[0]
        told = found.told
        network = network_of({piece.ours: shapes[piece.theirs] for piece in pieces if piece.is_name}, told)
        built.check_widths(found, (TEXT_ENCODER, "hidden_size", network["context_dim"]))
        stage = vae.first_stage(told.get("vae/config") or PUBLISHED_VAE)
        side = 1024 // 2 ** (len(stage.get("ch_mult", (1, 2, 4, 4))) - 1)
        scheduler = told.get("scheduler/scheduler_config") or {"shift": TURBO_SHIFT}
        turbo = scheduler.get("shift") == TURBO_SHIFT
        level: dict[str, Any] = {"use": "flow", "reversed": True}
        level["multiplier"] = float((told.get("transformer/config") or {}).get("t_scale", 1000.0))
        return {
            "model": {
                "use": "diffusion",
                "input_key": "image",
                "latent_shape": [network["in_channels"], side, side],
                "network": network,
                "denoiser": {"use": "continuous", "scaling": level},
                "first_stage": stage,
                "conditioner": {"use": "general", "embedders": slots(found.places)},
                "sampler": {
                    "use": "euler_edm",
                    "num_steps": 8 if turbo else 50,
                    "discretization": shifted_once(scheduler),
                    "guider": {"use": "cfg", "scale": 1.0 if turbo else 6.0},
                },
            }
        }

    def folder(self, form: str, shapes: Shapes, config: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """See `Family`."""
        if form != "diffusers":
            return None
        told: dict[str, Any] = {"transformer/config": transformer_settings(shapes, config)}
        index: dict[str, Any] = {
            "_class_name": "ZImagePipeline",
            "transformer": ["diffusers", "ZImageTransformer2DModel"],
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            "vae": [None, None],
            TEXT_ENCODER: [None, None],
            "tokenizer": [None, None],
        }
        stage = {key.removeprefix(FIRST_STAGE): shape for key, shape in shapes.items() if key.startswith(FIRST_STAGE)}
        if stage:
            told["vae/config"] = settings.vae_settings(config, stage, *vae.size(stage))
            index["vae"] = ["diffusers", "AutoencoderKL"]
        if any(key.startswith(f"{CONDITIONER}embedders.0.") for key in shapes):
            embedder = settings.value(config, "model.conditioner.embedders")[0]["embedder"]
            known = settings.folder_settings(embedder["model"])
            if not known:
                raise SgmError(
                    "the text encoder's config.json is not known: `model` of its embedder must be a folder that has it"
                )
            told[f"{TEXT_ENCODER}/config"] = {**known, "architectures": ["Qwen3Model"]}
            told["tokenizer"] = tokenizer = Path(embedder.get("tokenizer") or embedder["model"])
            file = tokenizer / "tokenizer_config.json"
            kind = read_object(file).get("tokenizer_class") if file.is_file() else None
            index |= {
                TEXT_ENCODER: ["transformers", "Qwen3Model"],
                "tokenizer": ["transformers", kind or "Qwen2Tokenizer"],
            }
        shift = settings.value(config, "model.sampler.discretization.shift")
        told["scheduler/scheduler_config"] = {
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "num_train_timesteps": 1000,
            "shift": 1.0 if shift is None else shift,
            "use_dynamic_shifting": settings.value(config, "model.sampler.discretization.base_shift") is not None,
        }
        told["model_index"] = index
        return told


PUBLISHED_VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 16,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "shift_factor": 0.1159,
    "scaling_factor": 0.3611,
}
"""That of FLUX.1, in the words of diffusers."""


def slots(places: Mapping[str, Path]) -> list[dict[str, Any]]:
    """What the network is told: hidden states of Qwen3, but for the last layer, and which tokens there are. An empty
    prompt is embedded like any other."""
    text: dict[str, Any] = {"input_key": "txt", "ucg_rate": 0.1, "ucg_value": "", "drop_group": "prompt"}
    form = {"max_length": LENGTH, "template": "chat", "chat_options": {"enable_thinking": True}}
    model = str(places.get(TEXT_ENCODER, QWEN))
    tokenizer = str(places.get("tokenizer", model))
    encoder = {"use": "llm_text", "model": model, "tokenizer": tokenizer, "layers": [-2], "load_weights": False}
    return [
        {**text, "embedder": encoder | form},
        {**text, "output": "context_mask", "embedder": {"use": "token_mask", "model": tokenizer, **form}},
    ]


def network_of(shapes: Shapes, told: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a network with these tensors.

    Args:
        shapes: by our keys.
        told: the JSON files of its folder, or of a part: what keys do not tell.

    Raises:
        SgmError: the axes of its positions are not known.
    """
    own = {key.removeprefix(NETWORK): shape for key, shape in shapes.items() if key.startswith(NETWORK)}
    counts = {"layers": 0, "noise_refiner": 0}
    for match in map(_BLOCK.match, own):
        if match is not None:
            counts[match[1]] = max(counts[match[1]], int(match[2]) + 1)
    width, channels = own["x_embedder.weight"]
    [head] = own["layers.0.attention.q_norm.weight"]
    known = told.get("transformer/config") or {}
    axes = known.get("axes_dims")
    if axes is None and head != HEAD:
        raise SgmError(
            f"heads of width {head}: how it is divided between the axes of positions (axes_dims) stands in the "
            "config.json of the transformer: give its folder as the part 'transformer'"
        )
    return {
        "use": "z_image",
        "in_channels": channels // 4,
        "dim": width,
        "n_layers": counts["layers"],
        "n_refiner_layers": counts["noise_refiner"],
        "n_heads": width // head,
        "context_dim": own["cap_embedder.1.weight"][1],
        "axes_dims": list(axes or AXES),
        "rope_theta": float(known.get("rope_theta", 256.0)),
        "norm_eps": float(known.get("norm_eps", 1e-5)),
    }


def transformer_settings(shapes: Shapes, config: Mapping[str, Any]) -> dict[str, Any]:
    """Of a `ZImageTransformer2DModel`.

    Args:
        shapes: of the model's tensors, by our keys.
        config: of the model, as plain data.
    """
    told = {"transformer/config": {"axes_dims": settings.value(config, "model.network.axes_dims") or AXES}}
    network = network_of(shapes, told)
    return {
        "_class_name": "ZImageTransformer2DModel",
        "all_patch_size": [2],
        "all_f_patch_size": [1],
        **{key: network[key] for key in ("in_channels", "dim", "n_layers", "n_refiner_layers", "n_heads", "axes_dims")},
        "n_kv_heads": network["n_heads"],
        "norm_eps": settings.value(config, "model.network.norm_eps") or network["norm_eps"],
        "qk_norm": True,
        "cap_feat_dim": network["context_dim"],
        "rope_theta": settings.value(config, "model.network.rope_theta") or network["rope_theta"],
        "t_scale": settings.value(config, "model.denoiser.scaling.multiplier") or 1000.0,
        "axes_lens": [1536, 512, 512],
    }
