"""Configs of models of any size, from the JSON files of their parts in a folder of diffusers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sgm_core.checkpoints.family import Found
from sgm_core.errors import SgmError

Spec = dict[str, Any]
"""A component, as a config has it."""


def told(found: Found, path: str) -> Mapping[str, Any]:
    """A JSON file of the folder. SgmError where it is not there."""
    if path not in found.told:
        raise SgmError(
            f"it lacks {path}.json, which says what no tensor does: give --part {path.partition('/')[0]}=PATH"
        )
    value: Mapping[str, Any] = found.told[path]
    return value


def check_widths(found: Found, *rows: tuple[str, str, int | None]) -> None:
    """Raise SgmError for a text encoder of another width than the network reads.

    Args:
        rows: (part, the key of its config.json that says its width, the width that the network reads).
    """
    for part, key, wanted in rows:
        said = found.told.get(f"{part}/config", {})
        width = said.get(key, said.get("hidden_size"))  # that of another kind of text encoder
        if width is not None and wanted is not None and width != wanted:
            raise SgmError(
                f"{part} ({found.places.get(part, 'no place')}) gives texts of width {width}, and the network reads "
                f"{wanted}: it is the text encoder of another model"
            )


def multiples(widths: Sequence[int], what: str) -> list[int]:
    """Widths in units of the first one."""
    if any(width % widths[0] for width in widths):
        raise SgmError(f"{what} has levels of widths {list(widths)}, which are no multiples of the first")
    return [width // widths[0] for width in widths]


def unet(found: Found) -> Spec:
    """The network of an `UNet2DConditionModel`."""
    said = told(found, "unet/config")
    widths = list(said["block_out_channels"])
    attends = [kind.startswith("CrossAttn") for kind in said["down_block_types"]]
    depths = said.get("transformer_layers_per_block", 1)
    heads = said.get("num_attention_heads") or said.get("attention_head_dim", 8)  # the number of heads, by either name
    by_level = heads if isinstance(heads, Sequence) else [heads] * len(widths)
    sizes = {width // n for width, n in zip(widths, by_level, strict=True)}
    vector = said.get("projection_class_embeddings_input_dim")
    head = {"num_heads": by_level[0]} if len(set(by_level)) == 1 else {"num_head_channels": min(sizes)}
    if "num_head_channels" in head and len(sizes) > 1:
        raise SgmError(f"unet/config.json: attention_head_dim is {heads}: neither as many nor as wide at every level")
    if said.get("norm_num_groups", 32) != 32:
        raise SgmError(f"unet/config.json: norm_num_groups is {said['norm_num_groups']}; the network here has 32")
    return {
        "use": "unet",
        "in_channels": said["in_channels"],
        "out_channels": said["out_channels"],
        "model_channels": widths[0],
        "num_res_blocks": said.get("layers_per_block", 2),
        "channel_mult": multiples(widths, "unet"),
        "attention_resolutions": [2**i for i, attention in enumerate(attends) if attention],
        "transformer_depth": list(depths) if isinstance(depths, Sequence) else depths,
        "context_dim": said["cross_attention_dim"],
        "use_linear_in_transformer": bool(said.get("use_linear_projection")),
        **head,
        **({} if vector is None else {"num_classes": "sequential", "adm_in_channels": vector}),
    }


def autoencoder(found: Found) -> Spec:
    """The first stage of an `AutoencoderKL`."""
    said = told(found, "vae/config")
    widths = list(said["block_out_channels"])
    channels = said.get("latent_channels", 4)
    return {
        "use": "autoencoder_kl",
        "embed_dim": channels,
        "z_channels": channels,
        "ch": widths[0],
        "ch_mult": multiples(widths, "vae"),
        "num_res_blocks": said.get("layers_per_block", 1),
        "in_channels": said.get("in_channels", 3),
        "out_ch": said.get("out_channels", 3),
    }


def clip(found: Found, part: str, **more: Any) -> Spec:
    """A CLIP text encoder with its tokenizer; `more` are further arguments of `clip_text`."""
    tokenizer = part.replace("text_encoder", "tokenizer")
    said = told(found, f"{part}/config")
    length = found.told.get(f"{tokenizer}/tokenizer_config", {}).get("model_max_length", 77)
    return {
        "use": "clip_text",
        "model": str(found.places[part]),
        "tokenizer": str(found.places[tokenizer]),
        "max_length": min(length, said.get("max_position_embeddings", 77)),
        **more,
    }
