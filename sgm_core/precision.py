"""Frozen weights in half precision: half the memory, while what is trained stays in float32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn

Half = Literal["bf16", "fp16"]

DTYPES: dict[Half, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}

HELD_IN = "held_in"
"""The attribute of a module that says its precision."""


def hold(module: nn.Module, precision: Half) -> bool:
    """Keep the parameters of a frozen module, and what stands for one whose outputs are cached, in half precision.

    Buffers stay: tables of positions and statistics are small, and need their digits.

    Returns:
        Whether there was anything to keep so.
    """
    dtype = DTYPES[precision]
    tensors = [tensor for tensor in (*module.parameters(), *_anchors(module)) if tensor.is_floating_point()]
    for tensor in tensors:
        tensor.data = tensor.data.to(dtype)
    if tensors:
        setattr(module, HELD_IN, dtype)
    return bool(tensors)


def computing(module: nn.Module) -> AbstractContextManager[object]:
    """Inside, a module that is held in half precision can be called: its inputs meet its weights as autocast has it.
    For another one, also one that was cast since, nothing changes."""
    dtype = getattr(module, HELD_IN, None)
    weight = next(iter((*module.parameters(), *_anchors(module))), None)
    if dtype is None or weight is None or weight.dtype != dtype:
        return nullcontext()
    return torch.autocast(weight.device.type, dtype)


def as_ever(module: nn.Module, output: Tensor) -> Tensor:
    """What a module that is held in half precision gave, in the precision of all else: float32, or as Lightning's
    `bf16-true` sets torch's default."""
    if not hasattr(module, HELD_IN) or not output.is_floating_point():
        return output
    return output.to(torch.get_default_dtype())


def _anchors(module: nn.Module) -> list[Tensor]:
    """The buffers that stand for weights which are elsewhere: a module names its own in `stands_for_weights`."""
    return [getattr(part, name) for part in module.modules() for name in getattr(part, "stands_for_weights", ())]
