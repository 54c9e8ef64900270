"""The conditioner and what it embeds with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sgm_core.config.tree import Node, plain
from sgm_plugins.tools.convert.document import Block, Item
from sgm_plugins.tools.convert.nodes import given
from sgm_plugins.tools.convert.rewriter import Action, Rule
from sgm_plugins.tools.convert.rules import drop, keep, keeps, must, negate, part
from sgm_plugins.tools.convert.tables.autoencoders import ENCODER, OLD_CH_MULT

if TYPE_CHECKING:
    from sgm_plugins.tools.convert.rewriter import Scope

OPEN_CLIP = {
    ("ViT-H-14", "laion2b_s32b_b79k"): "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    ("ViT-bigG-14", "laion2b_s39b_b160k"): "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",
}
"""open_clip's architecture and weights -> the same weights on the hub."""

OPEN_CLIP_DEFAULT = ("ViT-H-14", "laion2b_s32b_b79k")

FROZEN: dict[str, Action] = {
    "freeze": drop("`trainable` says it"),
    "device": drop("it goes where the model goes"),
    "init_device": drop("it goes where the model goes"),
}
TEXT: dict[str, Action] = {**FROZEN, "version": keep("model"), "max_length": keep()}


def _architecture(scope: Scope, key: str, node: Node) -> None:
    """Both parts of the name are needed; `_open_clip_model` puts them together."""
    scope.put(key, plain(node), node)


def _open_clip_model(scope: Scope) -> None:
    items = scope.block.items
    arch, version = (items.pop(key, None) for key in ("arch", "version"))
    named = (arch.value if arch else OPEN_CLIP_DEFAULT[0], version.value if version else OPEN_CLIP_DEFAULT[1])
    model, note = OPEN_CLIP.get(named) if _hashable(named) else None, f"open_clip's {named[0]}, {named[1]}"
    if model is None and _is_file(named[1]):
        model = next((model for (known, _), model in OPEN_CLIP.items() if known == named[0]), None)
        note = f"was the file {named[1]} of open_clip's {named[0]}: taken to hold these weights"
    use, *rest = items.items()
    items.clear()
    items[use[0]] = use[1]
    if model is None:
        known = ", ".join(f"{a} {v}" for a, v in OPEN_CLIP)
        message = f"open_clip's {named[0]} {named[1]} is not known by a name on the hub. Known: {known}"
        scope.missing("model", scope.node, message, f"{named[0]} {named[1]}")
    else:
        scope.put("model", model, note=note)
    for item in (arch, version):
        if item is not None:
            items["model"].above += [*item.above, *filter(None, [item.beside])]
            items["model"].origin = item.origin
    items.update(rest)


def _hashable(named: tuple[Any, Any]) -> bool:
    return all(isinstance(name, str) for name in named)


def _is_file(version: object) -> bool:
    """open_clip takes a file in the place of the name of its weights."""
    return isinstance(version, str) and version.endswith((".bin", ".pt", ".pth", ".ckpt", ".safetensors"))


OPEN_CLIP_TEXT: dict[str, Action] = {
    **FROZEN,
    "arch": _architecture,
    "version": _architecture,
    "max_length": keep(),
    "layer": keep(),
    "always_return_pooled": keep("return_pooled"),
    "legacy": keep(),
}


def slots(scope: Scope, key: str, node: Node) -> None:
    if not isinstance(node.value, list):
        scope.missing("embedders", node, "a list of embedders was expected")
        return
    made = [_slot(scope, item, f"{scope.path_of(key)}[{i}]") for i, item in enumerate(node.value)]
    scope.put("embedders", made, node)


BESIDE = {
    "input_key": keep(),
    "input_keys": keep(),
    "is_trainable": keep("trainable"),
    "ucg_rate": keep(),
    "legacy_ucg_value": keep("ucg_value"),
}


def _slot(scope: Scope, node: Node, path: str) -> Block:
    """What stands beside the target goes into the slot, the rest into its embedder."""
    slot = type(scope)(scope.rewriter, path, node)
    embedder = scope.rewriter.component(node, "embedders", path, tuple(BESIDE))
    slot.block.origin = node.where
    beside = given(node)
    for key, action in BESIDE.items():
        if key in beside:
            action(slot, key, beside[key])
    slot.put("embedder", embedder)
    slot.close()
    return slot.block


def _encoder_of_its_own(scope: Scope) -> None:
    """The arguments of an encoder among the embedder's own there, a mapping of them here."""
    items, encoder = scope.block.items, Block({"use": Item("conv")})
    for key in [key for key in items if key not in ("use", "flatten")]:
        encoder.items[key] = items.pop(key)
    scope.put("encoder", encoder)


def _low_scale_levels(scope: Scope) -> None:
    """A process of its own there, a discretization here."""
    items, levels = scope.block.items, Block()
    levels.items["use"] = Item("legacy_ddpm")
    levels.items["num_timesteps"] = items.pop("timesteps", Item(1000))
    for key in ("linear_start", "linear_end"):
        if key in items:
            levels.items[key] = items.pop(key)
    scope.put("discretization", levels)
    scope.put("num_levels", levels.items["num_timesteps"].value)


BOTH = ("sgm", "ldm")
CLASS_OF_LDM: dict[str, Action] = {
    **keeps("embed_dim n_classes add_sequence_dim"),
    "key": drop("the slot's input_key says it"),
    "ucg_rate": must(
        0, 0.0, why="a slot has ucg_rate, which drops the vector; there a class of its own stood for none"
    ),
}

RULES: dict[str, tuple[Rule, ...]] = {
    "GeneralConditioner": (Rule("conditioners", "general", {"emb_models": slots}, {"embedders": []}),),
    "Identity": (Rule("embedders", "identity", packages=("torch",)),),
    "IdentityEncoder": (Rule("embedders", "identity", packages=BOTH),),
    "ClassEmbedder": (
        Rule("embedders", "class", keeps("embed_dim n_classes add_sequence_dim")),
        Rule("embedders", "class", CLASS_OF_LDM, {"add_sequence_dim": True}, packages=("ldm",)),
    ),
    "ConcatTimestepEmbedderND": (Rule("embedders", "timestep", keeps("outdim")),),
    "SpatialRescaler": (
        Rule(
            "embedders",
            "spatial_rescaler",
            {
                **keeps("n_stages method multiplier in_channels out_channels bias wrap_video kernel_size"),
                "remap_output": keep("remap"),
            },
            packages=BOTH,
        ),
    ),
    "LowScaleEncoder": (
        Rule(
            "embedders",
            "low_scale",
            {
                "model_config": part("first_stage", "first_stages"),
                **keeps("linear_start linear_end timesteps max_noise_level output_size scale_factor"),
            },
            finish=_low_scale_levels,
        ),
    ),
    "GaussianEncoder": (
        Rule(
            "embedders",
            "gaussian_encoder",
            {**ENCODER, "weight": drop("the loss does not see an embedder"), "flatten_output": keep("flatten")},
            OLD_CH_MULT,
            finish=_encoder_of_its_own,
        ),
    ),
    "VideoPredictionEmbedderWithEncoder": (
        Rule(
            "embedders",
            "video_prediction",
            {
                "encoder_config": part("encoder", "first_stages"),
                "sigma_sampler_config": part("sigma_sampler", "sigma_samplers"),
                "sigma_cond_config": part("sigma_embedder", "embedders"),
                **keeps("n_cond_frames n_copies scale_factor"),
                "is_ae": drop("the encoder is a first stage"),
                "disable_encoder_autocast": negate("encoder_autocast"),
                "en_and_decode_n_samples_a_time": keep("encoder_chunk"),
            },
        ),
    ),
    # text and images (extra `text`)
    "FrozenCLIPEmbedder": (
        Rule(
            "embedders",
            "clip_text",
            {**TEXT, **keeps("layer layer_idx"), "always_return_pooled": keep("return_pooled")},
            packages=BOTH,
        ),
    ),
    "FrozenOpenCLIPEmbedder2": (
        Rule("embedders", "open_clip_text", OPEN_CLIP_TEXT, {"layer": "last", "legacy": True}, finish=_open_clip_model),
    ),
    "FrozenOpenCLIPEmbedder": (
        Rule(
            "embedders",
            "open_clip_text",
            {key: OPEN_CLIP_TEXT[key] for key in (*FROZEN, "arch", "version", "max_length", "layer")},
            {"layer": "last", "legacy": True},
            packages=BOTH,
            finish=_open_clip_model,
        ),
    ),
    "FrozenT5Embedder": (Rule("embedders", "t5", TEXT, {"model": "google/t5-v1_1-xxl"}, packages=BOTH),),
    "FrozenByT5Embedder": (Rule("embedders", "byt5", TEXT, {"model": "google/byt5-base"}),),
    "FrozenCLIPT5Encoder": (
        Rule(
            "embedders",
            "clip_t5",
            {
                **FROZEN,
                "clip_version": keep("clip_model"),
                "t5_version": keep("t5_model"),
                **keeps("clip_max_length t5_max_length"),
            },
            packages=BOTH,
        ),
    ),
    "FrozenOpenCLIPImageEmbedder": (
        Rule(
            "embedders",
            "clip_image",
            {
                **FROZEN,
                "arch": _architecture,
                "version": _architecture,
                **keeps("antialias unsqueeze_dim repeat_to_max_len num_image_crops output_tokens max_length"),
                "ucg_rate": must(0, 0.0, why="the rate beside the embedder says it"),
            },
            finish=_open_clip_model,
        ),
    ),
    "FrozenOpenCLIPImagePredictionEmbedder": (
        Rule(
            "embedders",
            "clip_image_prediction",
            {"open_clip_embedding_config": part("embedder", "embedders"), **keeps("n_cond_frames n_copies")},
        ),
    ),
}
