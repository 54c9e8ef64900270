"""A LoRA from one form to another, or into a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from sgm_core.checkpoints.files import Checkpoint, read_checkpoint, save_weights
from sgm_core.checkpoints.manifest import to_load
from sgm_core.errors import SgmError
from sgm_plugins.lora.files import read_lora, write_kohya, write_peft
from sgm_plugins.lora.merge import merged, split_weight
from sgm_plugins.lora.names import Names, Target


def convert_lora(given: Sequence[str], model: str, to: Literal["kohya", "peft", "merged"], out: Path) -> int:
    """Write a LoRA in kohya's form (a file) or peft's (a folder), or a checkpoint of the model with all of them in it.

    Args:
        given: FILE or FILE:WEIGHT each, see `read_lora`; one without a weight, unless they are merged.
        model: a run or a checkpoint; for the forms a config will do, whose model is not allocated.
        to: the form.
        out: what to write; for a merged checkpoint a `.safetensors` file.

    Returns:
        How many layers have an update.

    Raises:
        SgmError: a file or a model that cannot be read; a LoRA for another model; there is such a file already.
    """
    if out.exists():
        raise SgmError(f"{out}: exists already; choose another --out, or remove it first")
    if to != "peft" and out.suffix != ".safetensors":
        raise SgmError(f"--out {out}: the file is a .safetensors file")
    files = [split_weight(text) for text in given]
    base = _model(model, needs_weights=to == "merged")
    names = Names({key: value.shape for key, value in base.weights.items()})
    if to == "merged":
        weights = dict(base.weights)
        changed: set[Target] = set()
        for path, weight in files:
            updates = read_lora(path, names)
            changed |= updates.keys()
            weights |= merged(weights, updates, weight)
        save_weights(weights, out, base.provenance)
        return len(changed)
    if len(files) > 1 or files[0][1] != 1:
        raise SgmError(f"--to {to} writes one LoRA as it is; --to merged takes several, and weights")
    updates = read_lora(files[0][0], names)
    if to == "kohya":
        write_kohya(out, updates, names)
    else:
        write_peft(out, updates)
    return len(updates)


def _model(model: str, needs_weights: bool) -> Checkpoint:
    """The state dict of a run, a checkpoint, or (on the meta device) a config."""
    path = Path(model)
    if path.is_dir() or path.suffix in (".ckpt", ".safetensors"):
        return read_checkpoint(to_load(path))
    if needs_weights:
        raise SgmError(f"--model {model}: a config has no weights to merge into; give a run or a checkpoint")
    from sgm_core.building.fresh import build_engine
    from sgm_core.config.api import load_config

    with torch.device("meta"):
        return Checkpoint(path, dict(build_engine(load_config(model)).state_dict()), None)
