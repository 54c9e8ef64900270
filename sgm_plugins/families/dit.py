"""DiT and SiT: Peebles & Xie 2022, arXiv:2212.09748; Ma et al. 2024, arXiv:2401.08740."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, ClassVar

from sgm_core.checkpoints.family import Family, Form, Found, Model, Rule, Shapes, expanded
from sgm_core.checkpoints.layouts import CONDITIONER, FIRST_STAGE, NETWORK
from sgm_core.errors import SgmError
from sgm_plugins.families import settings, vae
from sgm_plugins.families.dit_names import transformer_rules

TRANSFORMER = "transformer."
BETAS: dict[str, Any] = {"use": "ddpm", "betas": "linear", "beta_start": 0.0001, "beta_end": 0.02}
"""The process that DiT was trained on."""

HEADS = {1152: 16}
"""Of the width whose heads are not 64 wide, as those of all others that are published."""

_BLOCK = re.compile(r"blocks\.(\d+)\.")


def _form(name: str, title: str, prefix: str, lacks: tuple[str, ...] = ()) -> Form:
    start = re.escape(prefix)
    has = (rf"{start}y_embedder\.embedding_table\.", rf"{start}blocks\.0\.adaLN_modulation\.1\.")
    others = tuple(rf"{start}blocks\.0\.{key}" for key in (r"attn\.q_norm\.", r"mlp\.w12\.", r"norm1\."))
    return Form(name, title, has, (*others, *lacks))


def _size() -> Mapping[str, Any]:
    return {
        f"{NETWORK}x_embedder.proj.weight": (1152, 4, 2, 2),
        f"{NETWORK}y_embedder.embedding_table.weight": (1001, 1152),
        f"{NETWORK}final_layer.linear.weight": (32, 1152),
        f"{NETWORK}blocks.27.mlp.fc1.weight": (4608, 1152),
        f"{NETWORK}blocks.28.mlp.fc1.weight": None,
    }


class DiTFamily(Family):
    """DiT and SiT, which differ in no key and no shape: DiT predicts noise, SiT the velocity of a straight path."""

    title = "DiT or SiT"
    license = "CC-BY-NC 4.0 (DiT), MIT (SiT)"
    prompt = ""
    forms = (
        Form(
            "diffusers",
            "a folder of diffusers",
            (
                rf"{TRANSFORMER}proj_out_1\.",
                rf"{TRANSFORMER}transformer_blocks\.0\.norm1\.emb\.class_embedder\.embedding_table\.",
            ),
            parts=("transformer", "vae"),
        ),
        _form("original", "a transformer of DiT or SiT in a file of its own", ""),
        _form(
            "comfy",
            "a transformer of DiT or SiT in the layout of ComfyUI",
            NETWORK,
            (rf"{re.escape(CONDITIONER)}|{re.escape(FIRST_STAGE)}",),
        ),
        _form("sgm", "a model in the layout of generative-models", NETWORK),
    )
    models = (Model("DiT-XL/2", "dit_xl_2", _size()), Model("SiT-XL/2", "sit_xl_2", _size()))
    lora_forms = ("diffusers",)
    lora_prefixes: ClassVar = {TRANSFORMER: "unet_"}

    def choose(self, models: Any, told: Mapping[str, Any]) -> Any:
        """See `Family`. diffusers has a pipeline of DiT alone."""
        return models[:1] if told.get("model_index", {}).get("_class_name") == "DiTPipeline" else models

    def rules(self, form: str, keys: Collection[str]) -> Iterable[Rule]:
        """See `Family`."""
        if form == "original":
            yield Rule(NETWORK.rstrip("."), "")
        elif form == "comfy":
            yield Rule(NETWORK.rstrip("."), NETWORK.rstrip("."))
        elif form == "diffusers":
            yield from transformer_rules(NETWORK, TRANSFORMER, keys)
        if any(key.startswith("vae.decoder.up.") for key in keys):  # as latent diffusion names it
            yield Rule(FIRST_STAGE.rstrip("."), "vae")
        elif any(key.startswith(("vae.", FIRST_STAGE) if form == "diffusers" else "vae.") for key in keys):
            yield from vae.vae_rules(keys)

    def config(self, form: str, shapes: Shapes, found: Found) -> Mapping[str, Any]:
        """See `Family`. Of a folder its scheduler says the levels and what is predicted; a file is taken for DiT."""
        pieces, _ = expanded(self.rules(form, shapes), shapes)
        network = network_of({piece.ours: shapes[piece.theirs] for piece in pieces}, found.told)
        told = found.told.get("vae/config", {})
        side, classes = network["input_size"], network["num_classes"]
        drawing: dict[str, Any] = {"sampler": {"num_steps": 50, "guider": {"use": "cfg", "scale": 4.0}}}
        if "scheduler" not in found.places:
            drawing["denoiser"] = {"use": "discrete", "num_idx": 1000, "scaling": "eps", "discretization": BETAS}
            drawing["sampler"] |= {"use": "ddpm", "num_steps": 250, "discretization": {**BETAS, "spacing": "linspace"}}
        label = {"input_key": "cls", "ucg_rate": 0.1, "embedder": {"use": "class_index", "n_classes": classes}}
        return {
            "model": {
                "use": "diffusion",
                "input_key": "image",
                "latent_shape": [network["in_channels"], side, side],
                "network": network,
                "first_stage": vae.first_stage(
                    {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2} | told
                ),
                "conditioner": {"use": "general", "embedders": [label]},
                **drawing,
            }
        }

    def folder(self, form: str, shapes: Shapes, config: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """See `Family`."""
        if form != "diffusers":
            return None
        if settings.value(config, "model.denoiser.scaling") not in ("eps", {"use": "eps"}):
            raise SgmError("the pipeline of diffusers draws with networks that predict noise (DiT), and this does not")
        stage = {key.removeprefix(FIRST_STAGE): shape for key, shape in shapes.items() if key.startswith(FIRST_STAGE)}
        if not stage:
            raise SgmError("only a model with its first stage becomes a folder of diffusers")
        heads = settings.value(config, "model.network.num_heads")
        network = network_of(shapes, {"transformer/config": {"num_attention_heads": heads}})
        side = settings.value(config, "model.network.input_size")
        levels = settings.value(config, "model.denoiser.discretization")
        levels = levels if isinstance(levels, Mapping) else {}
        return {
            "transformer/config": {
                "_class_name": "DiTTransformer2DModel",
                "num_attention_heads": heads,
                "attention_head_dim": network["dim"] // heads,
                "in_channels": network["in_channels"],
                "out_channels": network["out_channels"] * (2 if network["learn_sigma"] else 1),
                "num_layers": network["depth"],
                "sample_size": network["input_size"] if side is None else side,
                "patch_size": network["patch_size"],
                "num_embeds_ada_norm": network["num_classes"],
                "norm_eps": 1e-6,
            },
            "vae/config": settings.vae_settings(config, stage, *vae.size(stage)),
            "scheduler/scheduler_config": {
                "_class_name": "DDIMScheduler",
                "beta_schedule": levels.get("betas", "scaled_linear"),
                "beta_start": levels.get("beta_start", 0.00085),
                "beta_end": levels.get("beta_end", 0.012),
                "num_train_timesteps": levels.get("num_timesteps", 1000),
                "clip_sample": False,
            },
            "model_index": {
                "_class_name": "DiTPipeline",
                "transformer": ["diffusers", "DiTTransformer2DModel"],
                "vae": ["diffusers", "AutoencoderKL"],
                "scheduler": ["diffusers", "DDIMScheduler"],
            },
        }


def network_of(shapes: Shapes, told: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a network with these tensors.

    Args:
        shapes: by our keys.
        told: the JSON files of its folder, or of a part: what keys do not tell.

    Raises:
        SgmError: the number of heads is not known.
    """
    own = {key.removeprefix(NETWORK): shape for key, shape in shapes.items() if key.startswith(NETWORK)}
    known = told.get("transformer/config") or {}
    dim, channels, patch, _ = own["x_embedder.proj.weight"]
    heads = known.get("num_attention_heads") or HEADS.get(dim) or (0 if dim % 64 else dim // 64)
    if not heads:
        raise SgmError(
            f"a width of {dim}: its number of heads (num_attention_heads) stands in the config.json of the "
            "transformer: give its folder as the part 'transformer'"
        )
    tokens = own["pos_embed"][1] if "pos_embed" in own else 256
    learned = own["final_layer.linear.weight"][0] == 2 * channels * patch**2
    return {
        "use": "dit",
        "depth": 1 + max(int(found[1]) for key in own if (found := _BLOCK.match(key))),
        "dim": dim,
        "num_heads": heads,
        "in_channels": channels,
        "out_channels": channels if learned else own["final_layer.linear.weight"][0] // patch**2,
        "input_size": known.get("sample_size") or round(tokens**0.5) * patch,
        "patch_size": patch,
        "num_classes": own["y_embedder.embedding_table.weight"][0] - 1,
        "learn_sigma": learned,
    }
