"""The autoencoder: diffusers (`AutoencoderKL`) counts the levels of the decoder from the coarsest one, we from the
finest; its attention has matrices there, convolutions of one pixel here."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from sgm_core.checkpoints.family import Rule
from sgm_core.checkpoints.layouts import FIRST_STAGE
from sgm_core.errors import SgmError
from sgm_plugins.families.unet import inside, nested

RESNET = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2", "nin_shortcut": "conv_shortcut"}
ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
OLDER = {"norm": "group_norm", "q": "query", "k": "key", "v": "value", "proj_out": "proj_attn"}
"""What diffusers called them before its version 0.17."""

_ATTENTION = re.compile(r"\.mid\.attn_1\.(?:q|k|v|proj_out)$")
_OUR_BLOCK = re.compile(r"(?:encoder\.down|decoder\.up)\.(\d+)\.block\.(\d+)\.")
_THEIR_BLOCK = re.compile(r"(?:encoder\.down_blocks|decoder\.up_blocks)\.(\d+)\.resnets\.(\d+)\.")


def size(keys: Iterable[str]) -> tuple[int, int]:
    """The levels, and the residual blocks of one of them in the encoder plus one, from keys of either side."""
    found = [match for key in keys if (match := _OUR_BLOCK.match(key) or _THEIR_BLOCK.match(key))]
    return max(int(m[1]) for m in found) + 1, max(int(m[2]) for m in found) + 1


def vae_names(levels: int, blocks: int, attention: Mapping[str, str] = ATTENTION) -> dict[str, str]:
    """Ours -> theirs."""
    names = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    for half in ("encoder", "decoder"):
        names |= inside(half, half, {"conv_in": "conv_in", "norm_out": "conv_norm_out", "conv_out": "conv_out"})
        names |= inside(f"{half}.mid.block_1", f"{half}.mid_block.resnets.0", RESNET)
        names |= inside(f"{half}.mid.attn_1", f"{half}.mid_block.attentions.0", attention)
        names |= inside(f"{half}.mid.block_2", f"{half}.mid_block.resnets.1", RESNET)
    for n in range(levels):
        names[f"encoder.down.{n}.downsample.conv"] = f"encoder.down_blocks.{n}.downsamplers.0.conv"
        names[f"decoder.up.{levels - 1 - n}.upsample.conv"] = f"decoder.up_blocks.{n}.upsamplers.0.conv"
        for j in range(blocks):
            names |= inside(f"encoder.down.{n}.block.{j}", f"encoder.down_blocks.{n}.resnets.{j}", RESNET)
            names |= inside(f"decoder.up.{levels - 1 - n}.block.{j}", f"decoder.up_blocks.{n}.resnets.{j}", RESNET)
    return names


def vae_rules(keys: Collection[str]) -> Iterator[Rule]:
    """Of a model with these keys, ours, or those of a folder of diffusers."""
    stage = nested(keys, FIRST_STAGE) or nested(keys, "vae.")
    if "decoder.layers.0.weight" in stage:  # AutoencoderTiny, whose names are ours
        yield Rule(FIRST_STAGE.rstrip("."), "vae")
        return
    is_old = any(".mid_block.attentions.0.query." in key for key in stage)
    for name, theirs in vae_names(*size(stage), OLDER if is_old else ATTENTION).items():
        yield Rule(FIRST_STAGE + name, f"vae.{theirs}", change="pointwise" if _ATTENTION.search(name) else "")


def first_stage(told: Mapping[str, Any], use: str = "autoencoder_kl") -> dict[str, Any]:
    """The config of a first stage, from the `config.json` of an `AutoencoderKL`, or of an `AutoencoderTiny`; what is
    missing there has the defaults of diffusers. Its scale is in it, so that `model.scale_factor` stays 1.

    Args:
        told: what the file says.
        use: the first stage that an `AutoencoderKL` is.

    Raises:
        SgmError: an autoencoder that no first stage here is.
    """
    kind = told.get("_class_name", "AutoencoderKL")
    if kind == "AutoencoderTiny":
        return _tiny(told)
    if kind != "AutoencoderKL":
        raise SgmError(f"vae/config.json: {kind} cannot be built here; AutoencoderKL and AutoencoderTiny can")
    widths = told.get("block_out_channels", [64])
    latents, attends = told.get("latent_channels", 4), told.get("mid_block_add_attention", True)
    shift, scale = told.get("shift_factor") or 0.0, told.get("scaling_factor", 0.18215)
    mean, std = told.get("latents_mean"), told.get("latents_std")
    has_convs = [told.get(f"use_{name}", True) for name in ("quant_conv", "post_quant_conv")]
    kinds = {*told.get("down_block_types", ()), *told.get("up_block_types", ())}
    others = sorted(kinds - {"DownEncoderBlock2D", "UpDecoderBlock2D"})
    if others or has_convs[0] != has_convs[1] or told.get("act_fn", "silu") not in ("silu", "swish"):
        what = others[0] if others else "one of two quant_convs" if has_convs[0] != has_convs[1] else told["act_fn"]
        raise SgmError(f"vae/config.json: an autoencoder with {what} cannot be built here")
    if mean is not None and std is not None:
        shift, scale = list(mean), [scale / deviation for deviation in std]
    return {
        "use": use,
        "embed_dim": latents,
        "z_channels": latents,
        "ch": widths[0],
        "ch_mult": [_ratio(width, widths[0]) for width in widths],
        "num_res_blocks": told.get("layers_per_block", 1),
        "in_channels": told.get("in_channels", 3),
        "out_ch": told.get("out_channels", 3),
        "attn_type": "vanilla" if attends else "none",
        "groups": told.get("norm_num_groups", 32),
        "quant_conv": has_convs[0],
        "shift": shift,
        "scale": scale,
    }


def _tiny(told: Mapping[str, Any]) -> dict[str, Any]:
    widths = {*told.get("encoder_block_out_channels", [64]), *told.get("decoder_block_out_channels", [64])}
    rest = {"act_fn": "relu", "upsample_fn": "nearest", "upsampling_scaling_factor": 2, "scaling_factor": 1.0}
    others = [f"{key} {told[key]}" for key, value in rest.items() if told.get(key, value) != value]
    if len(widths) > 1 or others:
        raise SgmError(
            f"vae/config.json: an AutoencoderTiny of {others[0] if others else 'several widths'} cannot be built here"
        )
    return {
        "use": "tiny",
        "embed_dim": told.get("latent_channels", 4),
        "width": widths.pop(),
        "encoder_blocks": list(told.get("num_encoder_blocks", [1, 3, 3, 3])),
        "decoder_blocks": list(told.get("num_decoder_blocks", [3, 3, 3, 1])),
        "in_channels": told.get("in_channels", 3),
        "out_ch": told.get("out_channels", 3),
    }


def _ratio(width: int, first: int) -> int | float:
    return width / first if width % first else width // first
