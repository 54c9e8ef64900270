"""Files of low-rank updates: kohya's form, one file for a whole model; peft's form, a folder for each part of it."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sgm_core.checkpoints.layouts import NETWORK
from sgm_core.errors import SgmError
from sgm_core.files import inside, replacing
from sgm_core.registry import did_you_mean
from sgm_plugins.lora.names import EMBEDDER, Names, Target
from sgm_plugins.lora.update import LowRank
from sgm_plugins.reading import read_object

Updates = dict[Target, LowRank]

KOHYA, PEFT = "lora.safetensors", "lora"
"""What a run writes in its folder: a file, and a folder with one for each part."""

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"

_FACTOR = re.compile(r"(.+?)\.(?:lora[_.](down|up|A|B)(?:\.default)?(?:\.weight)?|(alpha))")
_FACTORS = {"down": "A", "A": "A", "up": "B", "B": "B", None: "alpha"}
_BEGINNINGS = {"lora_": "", "unet.": "unet_", "text_encoder_2.": "te2_", "text_encoder.": "te1_"}
"""Of the layers in a file of a whole model: in kohya's form, and in that of diffusers."""
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
    files = _files_of(path)
    if files[0].name != WEIGHTS:
        return _resolved(path, _read_whole(files[0], _BEGINNINGS | names.prefixes), names)
    found: dict[str, LowRank] = {}
    for folder in (file.parent for file in files):
        found |= _read_peft(folder, f"{folder.name}." if folder.name.startswith("embedders.") else "unet_")
    return _resolved(path, found, names)


def digest_of_lora(path: Path) -> str:
    """sha256 of the weights that `read_lora` reads, of all files together."""
    digest = hashlib.sha256()
    for file in _files_of(path):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _files_of(path: Path) -> list[Path]:
    """One file of a whole model, or one in peft's form for each part."""
    if not path.is_dir():
        return [path]
    if (path / KOHYA).is_file():
        return [inside(path, KOHYA)]
    files = [path / WEIGHTS] if (path / WEIGHTS).is_file() else sorted(path.glob(f"*/{WEIGHTS}"))
    if not files:
        raise SgmError(f"{path}: no LoRA here (looked for {KOHYA}, {WEIGHTS} and */{WEIGHTS})")
    return [inside(path, file.relative_to(path).as_posix()) for file in files]


def _read_whole(path: Path, beginnings: Mapping[str, str]) -> dict[str, LowRank]:
    weights, metadata = _load(path)
    said = json.loads(metadata.get("lora_adapter_metadata", "{}"))  # how diffusers tells the scales
    found = {}
    for layer, factors in _layers(path, weights).items():
        start = next((start for start in beginnings if layer.startswith(start)), None)
        if start is None:
            raise SgmError(f"{path}: of which part of a model is '{layer}'? Names begin with {', '.join(beginnings)}")
        inner = layer.removeprefix(start)
        config = {key.removeprefix(start): value for key, value in said.items() if key.startswith(start)}
        found[beginnings[start] + inner] = _update(path, layer, factors, _alpha(config, inner, factors))
    return found


def _read_peft(folder: Path, part: str) -> dict[str, LowRank]:
    weights, _ = _load(folder / WEIGHTS)
    try:
        config = read_object(inside(folder, CONFIG))
    except ValueError as error:
        raise SgmError(f"{error}; it says how the weights beside it are scaled") from error
    if config.get("use_dora"):
        raise SgmError(f"{folder / CONFIG}: use_dora is set; only plain LoRA can be read")
    found = {}
    for layer, factors in _layers(folder / WEIGHTS, weights).items():
        inner = layer.removeprefix(_PEFT)
        found[part + inner] = _update(folder / WEIGHTS, layer, factors, _alpha(config, inner, factors))
    return found


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a `.safetensors` file, and its metadata."""
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        raise SgmError(f"{path}: no such LoRA; a .safetensors file, a folder in peft's form or a run is needed")
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise SgmError(f"{path}: {'no such file' if not path.exists() else f'cannot be read: {error}'}") from error


def _layers(path: Path, weights: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """By layer: its factors A and B, and its alpha if it has one."""
    layers: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, value in weights.items():
        match = _FACTOR.fullmatch(key)
        if match is None:
            raise SgmError(
                f"{path}: holds '{key}', which no plain LoRA has (DoRA, LoHa, LoKr and others cannot be read)"
            )
        layers[match[1]][_FACTORS[match[2]]] = value
    if not layers:
        raise SgmError(f"{path}: is empty")
    return layers


def _alpha(config: Mapping[str, Any], layer: str, factors: Mapping[str, Tensor]) -> float | None:
    """What a configuration of peft says, or the file itself."""
    if "alpha" in factors:
        return float(factors["alpha"])
    patterns = config.get("alpha_pattern") or {}
    alpha = next((alpha for key, alpha in patterns.items() if re.match(rf"(.*\.)?({key})$", layer)), None)
    alpha = config.get("lora_alpha") if alpha is None else alpha
    if alpha is not None and config.get("use_rslora") and "A" in factors:
        return float(alpha) * math.sqrt(len(factors["A"]))  # the scale is alpha / sqrt(r): arXiv:2312.03732
    return alpha


def _update(path: Path, layer: str, factors: Mapping[str, Tensor], alpha: float | None) -> LowRank:
    if not factors.keys() >= {"A", "B"}:
        raise SgmError(f"{path}: '{layer}' lacks one of its two factors")
    A, B = factors["A"], factors["B"]
    if A.ndim < 2 or B.ndim < 2 or A.shape[0] != B.shape[1] or any(side != 1 for side in B.shape[2:]):
        raise SgmError(f"{path}: '{layer}' has factors {tuple(B.shape)} and {tuple(A.shape)}, which have no product")
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
        weights[f"{name}.alpha"] = torch.tensor(update.alpha, dtype=update.A.dtype)
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
