"""The autoencoder: diffusers (`AutoencoderKL`) counts the levels of the decoder from the coarsest one, we from the
finest; its attention has matrices there, convolutions of one pixel here."""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import Tensor

from sgm_plugins.tools.convert.diffusers.names import Names, inside

RESNET = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2", "nin_shortcut": "conv_shortcut"}
ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
OLDER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""What diffusers called them before its version 0.17."""

_OUR_BLOCK = re.compile(r"(?:encoder\.down|decoder\.up)\.(\d+)\.block\.(\d+)\.")
_THEIR_BLOCK = re.compile(r"(?:encoder\.down_blocks|decoder\.up_blocks)\.(\d+)\.resnets\.(\d+)\.")
_MATRIX = re.compile(r".*\.mid_block\.attentions\.0\.(?:to_[qkv]|to_out\.0)\.weight")
_OLDER = re.compile(rf"(.*\.mid_block\.attentions\.0\.)({'|'.join(OLDER)})(\..*)")


def size(keys: Iterable[str]) -> tuple[int, int]:
    """The levels, and the residual blocks of one of them in the encoder plus one, from keys of either side."""
    found = [match for key in keys if (match := _OUR_BLOCK.match(key) or _THEIR_BLOCK.match(key))]
    return max(int(m[1]) for m in found) + 1, max(int(m[2]) for m in found) + 1


def vae_names(levels: int, blocks: int) -> Names:
    """Ours -> theirs."""
    names: Names = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    for half in ("encoder", "decoder"):
        names |= inside(half, half, {"conv_in": "conv_in", "norm_out": "conv_norm_out", "conv_out": "conv_out"})
        names |= inside(f"{half}.mid.block_1", f"{half}.mid_block.resnets.0", RESNET)
        names |= inside(f"{half}.mid.attn_1", f"{half}.mid_block.attentions.0", ATTENTION)
        names |= inside(f"{half}.mid.block_2", f"{half}.mid_block.resnets.1", RESNET)
    for n in range(levels):
        names[f"encoder.down.{n}.downsample.conv"] = f"encoder.down_blocks.{n}.downsamplers.0.conv"
        names[f"decoder.up.{levels - 1 - n}.upsample.conv"] = f"decoder.up_blocks.{n}.upsamplers.0.conv"
        for j in range(blocks):
            names |= inside(f"encoder.down.{n}.block.{j}", f"encoder.down_blocks.{n}.resnets.{j}", RESNET)
            names |= inside(f"decoder.up.{levels - 1 - n}.block.{j}", f"decoder.up_blocks.{n}.resnets.{j}", RESNET)
    return names


def present_name(key: str) -> str:
    """A key of theirs as they call it now."""
    older = _OLDER.fullmatch(key)
    return f"{older[1]}{OLDER[older[2]]}{older[3]}" if older else key


def to_theirs(key: str, tensor: Tensor) -> Tensor:
    """(c, c, 1, 1) -> (c, c), of the attention; `key` is theirs."""
    return tensor[:, :, 0, 0] if _MATRIX.fullmatch(key) and tensor.ndim == 4 else tensor


def to_ours(key: str, tensor: Tensor) -> Tensor:
    """(c, c) -> (c, c, 1, 1); `key` is theirs."""
    return tensor[:, :, None, None] if _MATRIX.fullmatch(key) and tensor.ndim == 2 else tensor
