"""Files of low-rank updates: kohya's form, one file for a whole model; peft's form, a folder for each part of it."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sgm_core.checkpoints.layouts import NETWORK
from sgm_core.errors import SgmError
from sgm_core.files import replacing
from sgm_core.registry import did_you_mean
from sgm_plugins.lora.keys import (
    BEGINNINGS,
    CONFIG,
    WEIGHTS,
    Layer,
    config_beside,
    lora_files,
    of_part,
    part_of,
    whole_model,
)
from sgm_plugins.lora.names import EMBEDDER, Names, Target
from sgm_plugins.lora.update import LowRank

Updates = dict[Target, LowRank]

_PEFT = "base_model.model."


def read_lora(path: Path, names: Names) -> Updates:
    """The updates that a file, a folder or a run holds for a model.

    Args:
        path: a `.safetensors` file in kohya's form (`lora_unet_...lora_down.weight`) or in that of diffusers
            (`unet...lora_A.weight`); a folder in peft's form, of the network, or with a folder for each part; a run.
        names: of the model.

    Raises:
        SgmError: there is none; it cannot be read, is of another kind, or for another model.
    """
    files = lora_files(path)
    if files[0].name != WEIGHTS:
        return _resolved(path, _read_whole(files[0], BEGINNINGS | names.prefixes), names)
    found: dict[str, LowRank] = {}
    for folder in (file.parent for file in files):
        found |= _read_peft(folder, part_of(folder))
    return _resolved(path, found, names)


def digest_of_lora(path: Path) -> str:
    """sha256 of the weights that `read_lora` reads, of all files together."""
    digest = hashlib.sha256()
    for file in lora_files(path):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _read_whole(path: Path, beginnings: Mapping[str, str]) -> dict[str, LowRank]:
    with _opened(path) as file:
        return _updates(file, whole_model(_shapes(file), file.metadata() or {}, beginnings))


def _read_peft(folder: Path, part: str) -> dict[str, LowRank]:
    config = config_beside(folder / WEIGHTS)
    with _opened(folder / WEIGHTS) as file:
        return _updates(file, of_part(_shapes(file), config, part))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A `.safetensors` file, whose errors name it."""
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        raise SgmError(f"{path}: no such LoRA; a .safetensors file, a folder in peft's form or a run is needed")
    if not path.is_file():
        raise SgmError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SgmError as error:
        raise SgmError(f"{path}: {error}") from error
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        raise SgmError(f"{path}: cannot be read: {error}") from error


def _shapes(file: Any) -> dict[str, tuple[int, ...]]:
    return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 - not a dict


def _updates(file: Any, layers: Mapping[str, Layer]) -> dict[str, LowRank]:
    return {name: _update(file, name, layer) for name, layer in layers.items()}


def _update(file: Any, name: str, layer: Layer) -> LowRank:
    A, B = file.get_tensor(layer.A), file.get_tensor(layer.B)
    for factor in (A, B):
        if not factor.is_floating_point():
            raise SgmError(f"'{name}' has factors of {factor.dtype}, not of floating point numbers")
        if not factor.float().isfinite().all():  # float8 has no such question
            raise SgmError(f"'{name}' has factors that are not finite")
    alpha = float(file.get_tensor(layer.alpha).double()) if layer.alpha is not None else layer.said
    if alpha is not None and not math.isfinite(alpha):
        raise SgmError(f"'{name}' has an alpha of {alpha}")
    return LowRank(A, B, float(len(A)) if alpha is None else alpha)


def _resolved(path: Path, found: Mapping[str, LowRank], names: Names) -> Updates:
    """Each update with what it changes in the model; all of them, or none."""
    known = {name.replace(".", "_"): name for name in found}
    strangers = [name for name in known if name not in names.targets]
    if strangers:
        near = did_you_mean(strangers[0], names.targets) or f" This one has such as '{next(iter(names.targets), '')}'"
        raise SgmError(
            f"{path}: it is for another model, it seems: of its {len(found)} layers {len(strangers)} are not in this "
            f"one, such as '{strangers[0]}'.{near}"
        )
    updates = {names.targets[name]: found[known[name]] for name in known}
    for target, update in updates.items():
        if not update.fits(names.shape(target)):
            raise SgmError(
                f"{path}: it is for another model: its update of {target.key} is {update.shape}, which has "
                f"{names.shape(target)}"
            )
    return updates


# --- writing -------------------------------------------------------------------------------------------------------


def write_kohya(path: Path, updates: Updates, names: Names) -> None:
    """One file, as kohya's sd-scripts writes it and most programs read it."""
    weights: dict[str, Tensor] = {}
    for target, update in updates.items():
        name = names.kohya(target)
        weights[f"{name}.lora_down.weight"] = update.A
        weights[f"{name}.lora_up.weight"] = update.B
        alpha = torch.tensor(update.alpha, dtype=torch.float32)  # in the factors' dtype it would be rounded
        exact = alpha.item() == update.alpha
        weights[f"{name}.alpha"] = alpha if exact else torch.tensor(update.alpha, dtype=torch.float64)
    _save(path, weights)


def write_peft(folder: Path, updates: Updates) -> None:
    """A folder for each part of the model, `network` and `embedders.N`, as peft's `PeftModel.from_pretrained` reads it.

    Raises:
        SgmError: it updates the queries alone of a weight that holds keys and values, too.
    """
    parts: dict[str, dict[str, LowRank]] = defaultdict(dict)
    for target, update in updates.items():
        if target.rows is not None:
            raise SgmError(f"peft's form has no name for a part of the rows of {target.key}; use kohya's")
        embedder = EMBEDDER.match(target.key)
        part = f"embedders.{embedder[1]}" if embedder else "network"
        layer = target.key.removeprefix(embedder[0] if embedder else NETWORK).removesuffix(".weight")
        parts[part][layer] = update
    for part, layers in parts.items():
        rank, alpha = _most(u.rank for u in layers.values()), _most(u.alpha for u in layers.values())
        config = {
            "peft_type": "LORA",
            "r": rank,
            "lora_alpha": alpha,
            "target_modules": "|".join(re.escape(layer) for layer in layers),
            "rank_pattern": {re.escape(layer): u.rank for layer, u in layers.items() if u.rank != rank},
            "alpha_pattern": {re.escape(layer): u.alpha for layer, u in layers.items() if u.alpha != alpha},
            "inference_mode": True,
        }
        (folder / part).mkdir(parents=True, exist_ok=True)
        factors = {f"{_PEFT}{layer}.lora_A.weight": u.A for layer, u in layers.items()}
        _save(folder / part / WEIGHTS, factors | {f"{_PEFT}{layer}.lora_B.weight": u.B for layer, u in layers.items()})
        with replacing(folder / part / CONFIG) as temporary:
            temporary.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _most(values: Iterable[Any]) -> Any:
    return Counter(values).most_common(1)[0][0]


def _save(path: Path, weights: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save_file

    with replacing(path) as temporary:
        save_file(
            {key: value.detach().cpu().contiguous() for key, value in weights.items()}, temporary, {"format": "pt"}
        )
