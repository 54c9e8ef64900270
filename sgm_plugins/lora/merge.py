"""Adding low-rank updates to the weights of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sgm_core.checkpoints.layouts import SHADOW
from sgm_core.errors import SgmError
from sgm_plugins.lora.files import Updates, read_lora
from sgm_plugins.lora.names import Names
from sgm_plugins.lora.update import at_least_float32

if TYPE_CHECKING:
    from sgm_core.training.base import TrainingEngine


def load_lora(engine: TrainingEngine, path: Path | str, weight: float = 1.0) -> int:
    """Add the updates of a LoRA to a model: to its weights, and to their average, with which it samples.

    Several add up, in any order; the same once more with `-weight` takes them away again, up to rounding. An adapter
    that the model has stays what it is.

    Args:
        engine: the model.
        path: a file in kohya's form or that of diffusers, a folder in peft's form, or the run that trained it.
        weight: how much of it; 1 is what was trained.

    Returns:
        How many layers it changed.

    Raises:
        SgmError: there is none, it cannot be read, or is for another model, which is then as before.
    """
    state = engine.state_dict()
    updates = read_lora(Path(path), Names({key: value.shape for key, value in state.items()}))
    with torch.no_grad():
        for key, changed in merged(state, updates, weight).items():
            state[key].copy_(changed)
    return len(updates)


def split_weight(text: str) -> tuple[Path, float]:
    """`style.safetensors:0.8` -> the path, and 0.8; 1 where no number follows a colon.

    Raises:
        SgmError: a weight that is not finite.
    """
    path, _, number = text.rpartition(":")
    try:
        weight = float(number) if path else 1.0
    except ValueError:  # the colon is of the path
        return Path(text), 1.0
    if not math.isfinite(weight):
        raise SgmError(f"--lora {text}: the weight is {weight}; 0.5 to 1 is usual")
    return Path(path or text), weight


def merged(weights: Mapping[str, Tensor], updates: Updates, weight: float = 1.0) -> dict[str, Tensor]:
    """Those of the weights that the updates change, and their averages: W + weight (alpha / r) B A, in W's dtype.

    Args:
        weights: of a model, as its checkpoint holds them; they stay as they are.
        updates: see `read_lora`.
        weight: how much of them.

    Raises:
        SgmError: a sum that the dtype of the weight cannot hold.
    """
    changed: dict[str, Tensor] = {}
    for target, update in updates.items():
        for key in (target.key, f"{SHADOW}{target.key}"):
            if key not in weights:
                continue
            W = changed.get(key, weights[key])
            precise = at_least_float32(W, update.A, update.B)
            delta = weight * update.delta().to(W.device, precise)
            if target.rows is None:
                total = W.to(precise) + delta.reshape(W.shape)
            else:
                total = W.to(precise, copy=True)
                start, stop, of = target.rows
                total[start * len(total) // of : stop * len(total) // of].add_(delta)
            changed[key] = _rounded(total, W.dtype, key)
    return changed


def _rounded(total: Tensor, dtype: torch.dtype, key: str) -> Tensor:
    """In the weight's own dtype.

    Raises:
        SgmError: it is too small for the sum, which would become infinite.
    """
    most = total.abs().max().item() if total.numel() else 0.0
    if most > torch.finfo(dtype).max:
        raise SgmError(f"{key} becomes {most:.4g} with the LoRA, more than {dtype} holds; a smaller weight works")
    return total.to(dtype)
