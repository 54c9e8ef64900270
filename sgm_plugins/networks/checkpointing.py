"""Activation checkpointing: memory for time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.utils.checkpoint import checkpoint

Result = TypeVar("Result")
"""A tensor, or several."""


def checkpointed(enabled: bool, fn: Callable[..., Result], *args: Any) -> Result:
    """fn(*args), its activations recomputed in the backward pass if `enabled`.

    Chen et al. 2016, arXiv:1604.06174. Non-reentrant, so gradients reach the parameters of `fn` even when no
    argument needs one (adapters on a frozen stem); dropout draws the same masks again.
    """
    if enabled and torch.is_grad_enabled():  # without gradients it would only cost time
        result: Result = checkpoint(fn, *args, use_reentrant=False)
        return result
    return fn(*args)
