"""FLUX.1 and Chroma: https://github.com/black-forest-labs/flux, https://huggingface.co/lodestones/Chroma."""

from __future__ import annotations

import re
from abc import ABC
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from sgm_core.checkpoints.family import Family, Form, Found, Model, Request, Rule, Shapes, expanded
from sgm_core.checkpoints.layouts import CONDITIONER, FIRST_STAGE, NETWORK
from sgm_core.errors import SgmError
from sgm_plugins.families import built, settings
from sgm_plugins.families.flow_schedule import shifted_once
from sgm_plugins.families.flux_folder import folder_files
from sgm_plugins.families.flux_names import flux_rules
from sgm_plugins.families.text import clip_rules
from sgm_plugins.families.vae import first_stage, vae_rules

TRANSFORMER = "transformer."
TEXT: dict[str, Any] = {"input_key": "txt", "ucg_rate": 0.1, "ucg_value": "", "drop_group": "prompt"}
"""A text encoder's slot: an empty prompt is embedded like any other."""

AUTOENCODER = {
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 16,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "shift_factor": 0.1159,
    "scaling_factor": 0.3611,
}
"""The published one's settings, by the names of diffusers."""

KONTEXT_SIZES = (
    (672, 1568), (688, 1504), (720, 1456), (752, 1392), (800, 1328), (832, 1248), (880, 1184), (944, 1104),
    (1024, 1024),
)  # fmt: skip
"""Sides of the pictures that Kontext was trained to edit."""

HEAD, AXES = 128, [16, 56, 56]
"""The published ones' width of a head, and how it is divided between the axes of a position."""

_BLOCK = re.compile(r"(double_blocks|single_blocks|distilled_guidance_layer\.layers)\.(\d+)\.")
_MODULATION = r"double_blocks\.0\.img_mod\.lin\."
_GUIDANCE = r"transformer\.time_text_embed\.guidance_embedder\."
_PARTS = ("transformer", "vae", "text_encoder", "text_encoder_2")
_NO_PICTURES = "its network reads other pictures beside the noise, which no component gives"


def forms(
    has: tuple[str, ...], lacks: tuple[str, ...], there: tuple[str, ...], parts: tuple[str, ...]
) -> tuple[Form, ...]:
    """How files are written.

    Args:
        has, lacks: what tells the network from others, by the beginning of the published names.
        there: the same as `has`, by the names of diffusers.
        parts: the sub-folders with weights.
    """

    def network(prefix: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return tuple(prefix + key for key in ("img_in\\.", *has)), tuple(prefix + key for key in lacks)

    bare, ours = network(""), network(re.escape(NETWORK))
    whole = rf"{re.escape(CONDITIONER)}|{re.escape(FIRST_STAGE)}"
    return (
        Form(
            "diffusers",
            "a folder of diffusers",
            (rf"{TRANSFORMER}x_embedder\.", rf"{TRANSFORMER}single_transformer_blocks\.0\.proj_mlp\.", *there),
            tuple(f"{TRANSFORMER}time_text_embed.guidance_embedder" for key in lacks if key.startswith("guidance")),
            parts=parts,
        ),
        Form("original", "a transformer in the layout of its authors", *bare),
        Form("comfy", "a transformer in the layout of ComfyUI", ours[0], (*ours[1], whole)),
        Form("sgm", "a model in the layout of generative-models", *ours),
    )


def size(guided: bool, channels: int = 64) -> dict[str, Sequence[int] | None]:
    """What tells the published transformers from others."""
    return {
        f"{NETWORK}img_in.weight": (3072, channels),
        f"{NETWORK}vector_in.in_layer.weight": (3072, 768),
        f"{NETWORK}guidance_in.in_layer.weight": (3072, 256) if guided else None,
        f"{NETWORK}double_blocks.18.img_mlp.2.weight": (3072, 12288),
        f"{NETWORK}double_blocks.19.img_mlp.2.weight": None,
        f"{NETWORK}single_blocks.37.linear2.weight": (3072, 15360),
        f"{NETWORK}single_blocks.38.linear2.weight": None,
    }


class FluxFamily(Family, ABC):
    """What FLUX.1 and Chroma share.

    Attributes:
        pipelines: the classes of diffusers whose folders hold it.
        texts: the text encoders: the part of diffusers -> our embedder. Of two the first is CLIP.
        steps: of a picture.
        shifts: whether the published model shifts its levels by the size of the picture.
        autoencoder: the first stage.
    """

    pipelines: ClassVar[tuple[str, ...]] = ("FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline")
    texts: ClassVar[Mapping[str, int]] = {"text_encoder": 0, "text_encoder_2": 1}
    steps: ClassVar[int] = 50
    shifts: ClassVar[bool] = True
    autoencoder: ClassVar[str] = "autoencoder_kl"
    lora_forms = ("diffusers",)
    lora_prefixes: ClassVar = {TRANSFORMER: "unet_", "diffusion_model.": "unet_"}

    def choose(self, models: Sequence[Model], told: Mapping[str, Any]) -> Sequence[Model]:
        """See `Family`."""
        return models if self._is_its(told) else ()

    def _is_its(self, told: Mapping[str, Any]) -> bool:
        index = told.get("model_index") or {}
        return index.get("_class_name", self.pipelines[0]) in self.pipelines

    def rules(self, form: str, keys: Collection[str]) -> Iterable[Rule]:
        """See `Family`. Parts in places of their own have their names before their keys, in every form."""
        if form == "original":
            yield Rule(NETWORK.rstrip("."), "")
        elif form == "comfy":
            yield Rule(NETWORK.rstrip("."), NETWORK.rstrip("."))
        elif form == "diffusers":
            yield from flux_rules(NETWORK, TRANSFORMER, keys)
        yield from self._part_rules(form, keys)

    def _part_rules(self, form: str, keys: Collection[str]) -> Iterable[Rule]:
        """Of first stage and text encoders, which only a folder of diffusers has in it; to any other file they are
        given beside it."""
        both = form == "diffusers"
        if any(key.startswith("vae.decoder.up.") for key in keys):  # as the authors published it
            yield Rule(FIRST_STAGE.rstrip("."), "vae")
        elif any(key.startswith(("vae.", FIRST_STAGE) if both else "vae.") for key in keys):
            yield from vae_rules(keys)
        for part, i in self.texts.items():
            ours = f"{CONDITIONER}embedders.{i}.transformer"
            if both or any(key.startswith(f"{part}.") for key in keys):
                yield from clip_rules(ours, part, keys) if len(self.texts) > 1 and i == 0 else [Rule(ours, part)]

    def config(self, form: str, shapes: Shapes, found: Found) -> Mapping[str, Any] | None:
        """See `Family`."""
        if not self._is_its(found.told):
            return None
        pieces, _ = expanded(self.rules(form, shapes), shapes)
        ours = {piece.ours: shapes[piece.theirs] for piece in pieces if piece.is_name} if pieces else shapes
        network = network_of(ours, found.told)
        t5 = list(self.texts)[-1]
        built.check_widths(found, (t5, "d_model", network["context_dim"]))
        if len(self.texts) > 1:
            built.check_widths(found, ("text_encoder", "hidden_size", network["vector_dim"]))
        factor = 2 ** (len(found.told.get("vae/config", AUTOENCODER).get("block_out_channels", [64])) - 1)
        side = 1024 // factor
        return {
            "model": {
                "use": "diffusion",
                "input_key": "image",
                "latent_shape": [network["out_channels"], side, side],
                "network": network,
                "denoiser": {"use": "continuous", "scaling": "flow"},
                "first_stage": first_stage(found.told.get("vae/config", AUTOENCODER), self.autoencoder),
                "conditioner": {"use": "general", "embedders": self.slots(found)},
                "sampler": self.schedule(found.told),
            }
        }

    def folder(self, form: str, shapes: Shapes, config: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """See `Family`. What its keys do not tell, a reference among the embedders does: it is Kontext then."""
        if form != "diffusers":
            return None
        told = {"transformer/config": {"axes_dims_rope": settings.value(config, "model.network.axes_dim")}}
        slots = settings.value(config, "model.conditioner.embedders") or []
        edits = any(slot.get("output") == "reference" for slot in slots)
        pipeline = "FluxKontextPipeline" if edits else self.pipelines[0]
        return folder_files(shapes, config, network_of(shapes, told), pipeline, self.texts)

    def slots(self, found: Found) -> list[dict[str, Any]]:
        """What the network is told: for CLIP and T5."""
        clip = {
            "use": "clip_text",
            "model": str(found.places.get("text_encoder", "openai/clip-vit-large-patch14")),
            "layer": "none",
            "load_weights": False,
            **_tokenizer(found, "tokenizer"),
        }
        if (length := _context(found.told)) is not None:
            clip["max_length"] = length
        return [{**TEXT, "embedder": clip}, {**TEXT, "embedder": self.t5(found, "text_encoder_2", "tokenizer_2")}]

    def t5(self, found: Found, part: str, tokenizer: str) -> dict[str, Any]:
        """T5's encoder."""
        model = str(found.places.get(part, "google/t5-v1_1-xxl"))
        return {"use": "t5", "model": model, "max_length": 512, "load_weights": False, **_tokenizer(found, tokenizer)}

    def schedule(self, told: Mapping[str, Any]) -> dict[str, Any]:
        """The sampler. The pipelines of diffusers give their scheduler evenly spaced times."""
        scheduler = told.get("scheduler/scheduler_config") or {"use_dynamic_shifting": self.shifts}
        return {"use": "euler_edm", "num_steps": self.steps, "discretization": shifted_once(scheduler)}


class FluxDev(FluxFamily):
    """FLUX.1 [dev], which is distilled from guidance and told its strength."""

    title = "FLUX.1 [dev]"
    license = "FLUX.1 [dev] Non-Commercial License"
    forms = forms((_MODULATION, r"vector_in\.", r"guidance_in\."), (), (_GUIDANCE,), _PARTS)
    models = (
        Model("FLUX.1 [dev]", "flux_dev", size(guided=True)),
        Model("FLUX.1 Fill [dev]", shapes=size(guided=True, channels=384), reason=_NO_PICTURES),
        Model("FLUX.1 Canny or Depth [dev]", shapes=size(guided=True, channels=128), reason=_NO_PICTURES),
    )
    options: ClassVar = {"scale": "guidance"}

    def slots(self, found: Found) -> list[dict[str, Any]]:
        """See `FluxFamily`."""
        guidance = {"input_key": "guidance", "output": "guidance", "embedder": "guidance"}
        return [*super().slots(found), guidance]

    def entries(self, request: Request) -> Mapping[str, Any]:
        """See `Family`."""
        return {"guidance": float(request.options.get("scale", 3.5))}


class FluxKontext(FluxFamily):
    """FLUX.1 Kontext [dev]: pictures from pictures and a prompt, arXiv:2506.15742."""

    title = "FLUX.1 Kontext [dev]"
    license = "FLUX.1 [dev] Non-Commercial License"
    forms = FluxDev.forms
    models = (Model("FLUX.1 Kontext [dev]", "flux_kontext", size(guided=True)),)
    pipelines = ("FluxKontextPipeline", "FluxKontextInpaintPipeline")
    options: ClassVar = {"scale": "guidance"}
    steps = 30
    reference_sizes = tuple(
        (width, height) for one, other in KONTEXT_SIZES for width, height in dict.fromkeys(((one, other), (other, one)))
    )
    autoencoder = "autoencoder_kl_mode"  # references are what the encoder gives, not drawn around it

    def slots(self, found: Found) -> list[dict[str, Any]]:
        """See `FluxFamily`."""
        guidance = {"input_key": "guidance", "output": "guidance", "embedder": "guidance"}
        reference = {"input_key": "reference", "output": "reference", "embedder": "reference"}
        return [*super().slots(found), guidance, reference]

    def entries(self, request: Request) -> Mapping[str, Any]:
        """See `Family`. Without a reference it draws from the prompt alone."""
        return {"guidance": float(request.options.get("scale", 3.5)), "reference": ()}


class FluxSchnell(FluxFamily):
    """FLUX.1 [schnell], which is distilled to a few steps, without guidance."""

    title = "FLUX.1 [schnell]"
    license = "Apache-2.0"
    forms = forms(
        (_MODULATION, r"vector_in\."), (r"guidance_in\.",), (r"transformer\.time_text_embed\.text_embedder\.",), _PARTS
    )
    models = (Model("FLUX.1 [schnell]", "flux_schnell", size(guided=False)),)
    options: ClassVar = {"scale": ""}
    distilled = "FLUX.1 [schnell] is distilled to 4 steps"
    steps = 4
    shifts = False

    def t5(self, found: Found, part: str, tokenizer: str) -> dict[str, Any]:
        """See `FluxFamily`."""
        return super().t5(found, part, tokenizer) | {"max_length": 256}


class Chroma(FluxFamily):
    """Chroma, a FLUX.1 [schnell] whose modulations one small network gives, trained on without distillation."""

    title = "Chroma"
    license = "Apache-2.0"
    forms = forms(
        (r"distilled_guidance_layer\.in_proj\.",),
        (),
        (r"transformer\.distilled_guidance_layer\.",),
        ("transformer", "vae", "text_encoder"),
    )
    models = (
        Model(
            "Chroma",
            "chroma",
            {
                f"{NETWORK}img_in.weight": (3072, 64),
                f"{NETWORK}distilled_guidance_layer.in_proj.weight": (5120, 64),
                f"{NETWORK}double_blocks.18.img_mlp.2.weight": (3072, 12288),
                f"{NETWORK}single_blocks.37.linear2.weight": (3072, 15360),
            },
        ),
    )
    pipelines = ("ChromaPipeline", "ChromaImg2ImgPipeline")
    texts: ClassVar = {"text_encoder": 0}
    steps = 35

    def slots(self, found: Found) -> list[dict[str, Any]]:
        """See `FluxFamily`."""
        t5 = self.t5(found, "text_encoder", "tokenizer")
        mask = {"use": "token_mask", "model": t5.get("tokenizer", t5["model"]), "max_length": 512, "padding": 1}
        return [
            {**TEXT, "embedder": t5 | {"mask_padding": "attention"}},
            {**TEXT, "output": "context_mask", "embedder": mask},
        ]

    def schedule(self, told: Mapping[str, Any]) -> dict[str, Any]:
        """See `FluxFamily`."""
        return super().schedule(told) | {"guider": {"use": "cfg", "scale": 5.0}}


def network_of(shapes: Shapes, told: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a network with these tensors.

    Args:
        shapes: by our keys.
        told: the JSON files of its folder, or of a part: what keys do not tell.

    Raises:
        SgmError: the axes of its positions are not known.
    """
    own = {key.removeprefix(NETWORK): shape for key, shape in shapes.items() if key.startswith(NETWORK)}
    counts = dict.fromkeys(("double_blocks", "single_blocks", "distilled_guidance_layer.layers"), 0)
    for found in map(_BLOCK.match, own):
        if found is not None:
            counts[found[1]] = max(counts[found[1]], int(found[2]) + 1)
    width, channels = own["img_in.weight"]
    [head] = next(shape for key, shape in own.items() if key.endswith("query_norm.scale"))
    axes = (told.get("transformer/config") or {}).get("axes_dims_rope")
    if axes is None and head != HEAD:
        raise SgmError(
            f"heads of width {head}: how it is divided between the axes of positions (axes_dims_rope) stands in the "
            "config.json of the transformer: give its folder as the part 'transformer'"
        )
    block = "single_blocks.0.linear2.weight"
    hidden = own[block][1] - width if block in own else own["double_blocks.0.img_mlp.0.weight"][0]
    config: dict[str, Any] = {
        "use": "flux",
        "in_channels": channels // 4,
        "out_channels": own["final_layer.linear.weight"][0] // 4,
        "hidden_size": width,
        "num_heads": width // head,
        "depth": counts["double_blocks"],
        "depth_single_blocks": counts["single_blocks"],
        "axes_dim": list(axes or AXES),
        "mlp_ratio": hidden / width,
        "context_dim": own["txt_in.weight"][1],
        "vector_dim": own["vector_in.in_layer.weight"][1] if "vector_in.in_layer.weight" in own else None,
        "guidance_embed": "guidance_in.in_layer.weight" in own,
    }
    if "distilled_guidance_layer.in_proj.weight" in own:
        approximator_dim, approximator_channels = own["distilled_guidance_layer.in_proj.weight"]
        config |= {
            "approximator_depth": counts["distilled_guidance_layer.layers"],
            "approximator_dim": approximator_dim,
            "approximator_channels": approximator_channels,
        }
    return config


def _tokenizer(found: Found, part: str) -> dict[str, str]:
    return {"tokenizer": str(found.places[part])} if part in found.places else {}


def _context(told: Mapping[str, Any]) -> int | None:
    """Tokens that CLIP reads: as many as its tokenizer gives, at most its context."""
    lengths = (
        (told.get("tokenizer/tokenizer_config") or {}).get("model_max_length"),
        (told.get("text_encoder/config") or {}).get("max_position_embeddings"),
    )
    return min((length for length in lengths if length is not None), default=None)
