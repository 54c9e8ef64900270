"""A folder of diffusers, and the weights of a model by our keys."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgm_core.checkpoints.known_models import KNOWN, KnownModel, identify
from sgm_core.checkpoints.layouts import FIRST_STAGE, NETWORK
from sgm_core.errors import SgmError
from sgm_plugins.tools.convert.diffusers import text, unet, vae
from sgm_plugins.tools.convert.diffusers.names import backwards, renamed

if TYPE_CHECKING:
    from torch import Tensor

    from sgm_core.config.api import Config

INDEX = "model_index.json"
LEFT_OVER = "sgm_left_over.safetensors"
"""What diffusers has no place for, by our keys; it does not read this file, and we do."""

WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")


def part_files(folder: Path) -> dict[str, list[Path]]:
    """The files with the weights of each part that is there.

    Raises:
        SgmError: no such folder; a part without `.safetensors`.
    """
    index = read_json(folder / INDEX)
    found: dict[str, list[Path]] = {}
    for part in PARTS:
        if not isinstance(index.get(part), list) or index[part][-1] is None:
            continue
        stem = WEIGHTS.get(part, "model")
        names = [f"{stem}.safetensors", f"{stem}.fp16.safetensors"]
        file = next((folder / part / name for name in names if (folder / part / name).is_file()), None)
        shards = folder / part / f"{stem}.safetensors.index.json"
        if file is not None:
            found[part] = [file]
        elif shards.is_file():
            found[part] = [folder / part / name for name in sorted(set(read_json(shards)["weight_map"].values()))]
        else:
            raise SgmError(f"{folder / part}: no {names[0]}; weights as .bin are not read, since they may run code")
    return found


def identify_folder(folder: Path, shapes: Mapping[str, Mapping[str, Sequence[int]]]) -> list[KnownModel]:
    """The public models that a folder may hold, from the shapes of its parts; where two have the same ones, by what the
    scheduler says that the network predicts."""
    theirs = shapes.get("unet", {})
    names, _ = renamed(theirs, backwards(unet.unet_names(*unet.their_levels(theirs))))
    known = identify({NETWORK + ours: theirs[key] for key, ours in names.items()})
    if len(known) > 1:
        file = folder / "scheduler" / "scheduler_config.json"
        velocity = file.is_file() and read_json(file).get("prediction_type") == "v_prediction"
        wanted = "sd_2_1_768" if velocity else "sd_2_1"
        known = [model for model in KNOWN if model.config == wanted and model in known]
    return known


# --- from the folder -----------------------------------------------------------------------------------------------


def read_folder(folder: Path) -> tuple[dict[str, Tensor], list[str], list[KnownModel]]:
    """The weights of a folder by our keys, notes on what had to be filled in, and the models that it may be.

    Raises:
        SgmError: no such folder, or keys that have no place with us.
    """
    from sgm_core.checkpoints.files import read_checkpoint

    files = part_files(folder)
    parts: dict[str, dict[str, Tensor]] = {name: {} for name in files}
    for name, paths in files.items():
        for path in paths:
            parts[name] |= read_checkpoint(path).weights
    missing = [name for name in ("unet", "vae") if name not in parts]
    if missing:
        raise SgmError(f"{folder}: has no {' and no '.join(missing)}, so it is not a whole model")
    kept = read_checkpoint(folder / LEFT_OVER).weights if (folder / LEFT_OVER).is_file() else {}
    ours: dict[str, Tensor] = {}
    notes: list[str] = []
    weights = parts["unet"]
    names, unknown = renamed(weights, backwards(unet.unet_names(*unet.their_levels(weights))))
    _all_placed(folder / "unet", unknown)
    ours |= {NETWORK + new: weights[old] for old, new in names.items()}
    weights = {vae.present_name(key): value for key, value in parts["vae"].items()}
    names, unknown = renamed(weights, backwards(vae.vae_names(*vae.size(weights))))
    _all_placed(folder / "vae", unknown)
    ours |= {FIRST_STAGE + new: vae.to_ours(old, weights[old]) for old, new in names.items()}
    is_xl = f"{NETWORK}label_emb.0.0.weight" in ours
    for i, name in enumerate(name for name in ("text_encoder", "text_encoder_2") if name in parts):
        start = f"conditioner.embedders.{i}."
        weights = {k if k.startswith("text_") else f"text_model.{k}": value for k, value in parts[name].items()}
        if is_xl and name == "text_encoder":
            ours |= {f"{start}transformer.{k}": t for k, t in weights.items() if not k.endswith("position_ids")}
            continue
        tower, unknown = text.open_clip_from_transformers(weights)
        _all_placed(folder / name, unknown)
        inner = {k.removeprefix(f"{start}model."): t for k, t in kept.items() if k.startswith(f"{start}model.")}
        tower, added = text.filled_up(tower | inner, ends=is_xl)
        if added:
            notes.append(f"{name} has no {' and no '.join(added)}, with which nothing is computed: filled in")
        ours |= {f"{start}model.{key}": value for key, value in tower.items()}
    shapes = {name: {key: tuple(value.shape) for key, value in inner.items()} for name, inner in parts.items()}
    return ours | kept, notes, identify_folder(folder, shapes)


def _all_placed(place: Path, unknown: Sequence[str]) -> None:
    if unknown:
        more = f", and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise SgmError(f"{place}: {unknown[0]}{more}: there is no such part in Stable Diffusion 2 and XL")


# --- into a folder -------------------------------------------------------------------------------------------------


def write_folder(folder: Path, weights: Mapping[str, Tensor], config: Config) -> list[str]:
    """Write the weights of a model, by our keys, as a folder of diffusers; gives notes.

    Args:
        folder: that is not there yet; one that is half written never is.
        weights: of the model.
        config: of it, for what the shapes do not say.

    Raises:
        SgmError: not a model of Stable Diffusion 2 or XL.
    """
    work = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        notes = _write(work, weights, config)
        work.rename(folder)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return notes


def _write(folder: Path, weights: Mapping[str, Tensor], config: Config) -> list[str]:
    from sgm_core.checkpoints.contents import nested
    from sgm_plugins.tools.convert.diffusers import settings

    network, stage = nested(weights, NETWORK), nested(weights, FIRST_STAGE)
    if not network or "quant_conv.weight" not in stage or any("time_stack" in key for key in network):
        raise SgmError("only models of Stable Diffusion 2 and XL, with all of their parts, become folders of diffusers")
    left = {key: value for key, value in weights.items() if not key.startswith((NETWORK, FIRST_STAGE))}
    down, up = unet.our_levels(network)
    names, unknown = renamed(network, unet.unet_names(down, up))
    _all_placed(Path(NETWORK), unknown)
    shapes = {key: tuple(value.shape) for key, value in network.items()}
    save_part(
        folder / "unet",
        {new: network[old] for old, new in names.items()},
        settings.unet_settings(config, shapes, down, up),
    )
    levels, blocks = vae.size(stage)
    names, unknown = renamed(stage, vae.vae_names(levels, blocks))
    _all_placed(Path(FIRST_STAGE), unknown)
    shapes = {key: tuple(value.shape) for key, value in stage.items()}
    save_part(
        folder / "vae",
        {new: vae.to_theirs(new, stage[old]) for old, new in names.items()},
        settings.vae_settings(config, shapes, levels, blocks),
    )
    is_xl = "label_emb.0.0.weight" in network
    slots = settings.value(config, "model.conditioner.embedders") or []
    notes: list[str] = []
    parts = []
    for i, slot in enumerate(slots):
        embedder = slot["embedder"] if isinstance(slot["embedder"], dict) else {"use": slot["embedder"]}
        start = f"conditioner.embedders.{i}."
        inner = nested(weights, start)
        if embedder["use"] == "clip_text":
            part = "text_encoder"
            theirs = nested(inner, "transformer.")
            unplaced: list[str] = []
            projection = None
        elif embedder["use"] == "open_clip_text":
            part = "text_encoder_2" if is_xl else "text_encoder"
            tower = nested(inner, "model.")
            taken = text.depth(tower) - (not is_xl)  # the last but one gives what Stable Diffusion 2 reads
            theirs, unplaced = text.open_clip_to_transformers(tower, taken, projected=is_xl)
            projection = tower["text_projection"].shape[1] if is_xl else None
        else:
            continue
        placed = {key for key in left if key.startswith(start)} - {f"{start}model.{key}" for key in unplaced}
        left = {key: value for key, value in left.items() if key not in placed}
        shapes = {key: tuple(value.shape) for key, value in theirs.items()}
        told = settings.text_settings(embedder, shapes, text.depth(theirs), projection)
        save_part(folder / part, theirs, told, "model")
        parts.append(part)
        tokenizer = folder / part.replace("text_encoder", "tokenizer")
        if not copy_tokenizer(embedder.get("model"), tokenizer):
            notes.append(f"{tokenizer.name} is not in it: a pipeline needs the files of CLIP's tokenizer there")
    if left:
        save(folder / LEFT_OVER, left)
        notes.append(f"{LEFT_OVER} holds {len(left)} tensors that diffusers has no place for; the way back needs it")
    write_json(folder / "scheduler" / "scheduler_config.json", settings.scheduler_settings(config))
    write_json(folder / INDEX, settings.model_index(parts, is_xl))
    return notes


def save_part(folder: Path, weights: Mapping[str, Tensor], told: Mapping[str, Any], stem: str | None = None) -> None:
    """A sub-folder with weights and settings."""
    write_json(folder / "config.json", told)
    save(folder / f"{stem or WEIGHTS[folder.name]}.safetensors", weights)


def save(path: Path, weights: Mapping[str, Tensor]) -> None:
    """As `.safetensors`; of tensors that are part of a larger one, a copy."""
    import torch
    from safetensors.torch import save_file

    def alone(tensor: Tensor) -> Tensor:
        whole = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes
        return tensor if whole else tensor.clone(memory_format=torch.contiguous_format)

    save_file({key: alone(value) for key, value in weights.items()}, path, metadata={"format": "pt"})


def copy_tokenizer(model: Any, target: Path) -> bool:
    """Copy the files of a tokenizer out of a local folder; false where that has none."""
    files = ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
    found = [Path(model) / name for name in files if model is not None and (Path(model) / name).is_file()]
    if not found:
        return False
    target.mkdir(parents=True, exist_ok=True)
    for file in found:
        shutil.copyfile(file, target / file.name)
    return True


def read_json(path: Path) -> dict[str, Any]:
    """SgmError where it is not there or no JSON."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SgmError(f"{path}: {error.strerror}: not a folder of diffusers, or not all of it") from error
    except ValueError as error:
        raise SgmError(f"{path}: no JSON: {error}") from error
    if not isinstance(found, dict):
        raise SgmError(f"{path}: no JSON object")
    return found


def write_json(path: Path, told: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
