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
from sgm_plugins.lora.update import LowRank, at_least_float32

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
    strangers = [name for name in known if name not in names.targets and name not in names.parts]
    if strangers:
        near = did_you_mean(strangers[0], names.targets) or f" This one has such as '{next(iter(names.targets), '')}'"
        raise SgmError(
            f"{path}: it is for another model, it seems: of its {len(found)} layers {len(strangers)} are not in this "
            f"one, such as '{strangers[0]}'.{near}"
        )
    updates = {}
    for name, there in known.items():
        if name in names.targets:
            updates[names.targets[name]] = found[there]
        else:
            updates |= {target: found[there].part(rows) for target, rows in names.parts[name]}
    for target, update in updates.items():
        if not update.fits(names.shape(target)):
            raise SgmError(
                f"{path}: it is for another model: its update of {target.key} is {update.shape}, which has "
                f"{names.shape(target)}"
            )
    return updates


# --- writing -------------------------------------------------------------------------------------------------------


def write_kohya(path: Path, updates: Updates, names: Names) -> None:
    """One file, as kohya's sd-scripts writes it and most programs read it. It has one update for each layer of a
    network that the published files have, queries, keys and values together."""
    weights: dict[str, Tensor] = {}
    network = {target: update for target, update in updates.items() if target.key.startswith(NETWORK)}
    others = {target: update for target, update in updates.items() if target not in network}
    for target, update in (fused(network) | others).items():
        name = names.kohya(target)
        weights[f"{name}.lora_down.weight"] = update.A
        weights[f"{name}.lora_up.weight"] = update.B
        alpha = torch.tensor(update.alpha, dtype=torch.float32)  # in the factors' dtype it would be rounded
        exact = alpha.item() == update.alpha
        weights[f"{name}.alpha"] = alpha if exact else torch.tensor(update.alpha, dtype=torch.float64)
    _save(path, weights)


def write_peft(folder: Path, updates: Updates) -> None:
    """A folder for each part of the model, `network` and `embedders.N`, as peft's `PeftModel.from_pretrained` reads it.
    Its layers are those of the model, queries, keys and values together where one layer has them.

    Raises:
        SgmError: it updates a weight that is no layer's, as the one of torch's attention.
    """
    parts: dict[str, dict[str, LowRank]] = defaultdict(dict)
    for target, update in fused(updates).items():
        if not target.key.endswith(".weight"):
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


def fused(updates: Updates) -> Updates:
    """Updates of whole weights: those of parts of the rows of a weight become one, of the sum of their ranks.

    A has the rows of all of them, B is block-diagonal in the rows that each is of.
    """
    of_key: dict[str, Updates] = defaultdict(dict)
    for target, update in updates.items():
        of_key[target.key][target] = update
    found: Updates = {}
    for key, several in of_key.items():
        whole = Target(key)
        if [*several] == [whole]:
            found[whole] = several[whole]
            continue
        precise = at_least_float32(*(factor for update in several.values() for factor in (update.A, update.B)))
        A = torch.cat([update.A.to(precise).flatten(1) for update in several.values()])
        blocks = []
        for target, update in several.items():
            start, stop, of = target.rows or (0, 1, 1)
            block = update.B.to(precise).flatten(1) * (update.alpha / update.rank)
            unit = len(block) // (stop - start)  # rows of one of the equal parts
            blocks.append(torch.nn.functional.pad(block, (0, 0, start * unit, (of - stop) * unit)))
        found[whole] = LowRank(A, torch.cat(blocks, dim=1), float(len(A)))
    return found


def _most(values: Iterable[Any]) -> Any:
    return Counter(values).most_common(1)[0][0]


def _save(path: Path, weights: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save_file

    with replacing(path) as temporary:
        save_file(
            {key: value.detach().cpu().contiguous() for key, value in weights.items()}, temporary, {"format": "pt"}
        )
