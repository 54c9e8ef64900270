"""A folder of diffusers, and the weights of a model by our keys."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgm_core.checkpoints.family import Family, Form, expanded
from sgm_core.checkpoints.layouts import FIRST_STAGE, NETWORK, harmless
from sgm_core.checkpoints.recognise import ask, recognise
from sgm_core.errors import SgmError
from sgm_core.files import inside, replacing
from sgm_plugins.reading import links_to, read_object

if TYPE_CHECKING:
    from torch import Tensor

    from sgm_core.checkpoints.family import Model
    from sgm_core.config.api import Config
    from sgm_plugins.tools.inspect.contents import Stored

INDEX = "model_index.json"
LEFT_OVER = "sgm_left_over.safetensors"
"""What diffusers has no place for, by our keys; it does not read this file, and we do."""


def folder_forms() -> list[Form]:
    """The forms of installed families that are folders."""
    return [form for forms in ask(lambda _, family: family.forms) for form in forms if form.parts]


def part_files(folder: Path) -> dict[str, list[Path]]:
    """The files with the weights of each part that a family reads.

    Raises:
        SgmError: no such folder; a part without `.safetensors`.
    """
    index = read_told(inside(folder, INDEX, links_to(folder)))
    found: dict[str, list[Path]] = {}

    def place(part: str, name: object) -> Path:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith((".safetensors", ".json")):
            raise SgmError(f"{folder / part}: {str(name)[:100]!r} is not the name of a file with weights")
        return inside(folder, f"{part}/{name}", links_to(folder))

    known = dict.fromkeys(part for form in folder_forms() for part in form.parts)
    for part in sorted(known, key=lambda name: name not in ("unet", "transformer")):  # the network first
        if not isinstance(index.get(part), list) or not index[part] or index[part][-1] is None:
            continue
        stem = stem_of(index[part])
        names = [f"{stem}.safetensors", f"{stem}.fp16.safetensors"]
        file = next((place(part, name) for name in names if (folder / part / name).is_file()), None)
        shards = folder / part / f"{stem}.safetensors.index.json"
        if file is not None:
            found[part] = [file]
        elif shards.is_file():
            weight_map = read_told(place(part, shards.name)).get("weight_map")
            if not isinstance(weight_map, dict):
                raise SgmError(f"{shards}: it has no weight_map")
            found[part] = sorted({place(part, name) for name in weight_map.values()})
        else:
            raise SgmError(f"{folder / part}: no {names[0]}; weights as .bin are not read, since they may run code")
    return found


def stem_of(library: Sequence[Any]) -> str:
    """What files of weights are called in a part, by its line in the index: `["transformers", "CLIPTextModel"]`."""
    return "model" if library[0] == "transformers" else "diffusion_pytorch_model"


def folder_shapes(parts: Mapping[str, Mapping[str, Stored | Tensor]]) -> dict[str, tuple[int, ...]]:
    """By part and key -> as a family is asked."""
    return {f"{part}.{key}": tuple(value.shape) for part, inner in parts.items() for key, value in inner.items()}


def folder_told(folder: Path) -> dict[str, Any]:
    """The JSON files of a folder and its parts, by path without `.json`."""
    names = [file.relative_to(folder) for file in (*folder.glob("*.json"), *folder.glob("*/*config.json"))]
    root = links_to(folder)
    return {name.with_suffix("").as_posix(): read_told(inside(folder, str(name), root)) for name in sorted(names)}


# --- from the folder -----------------------------------------------------------------------------------------------


def read_folder(folder: Path) -> tuple[dict[str, Tensor], list[str], list[Model]]:
    """The weights of a folder by our keys, notes on what had to be filled in, and the models that it may be.

    Raises:
        SgmError: no such folder, one that no family knows, or keys that have no place with us.
    """
    from sgm_core.checkpoints.files import read_checkpoint, shapes_of
    from sgm_core.checkpoints.pieces import translated

    files = part_files(folder)
    parts: dict[str, dict[str, Tensor]] = {name: {} for name in files}
    for name, paths in files.items():
        for path in paths:
            parts[name] |= read_checkpoint(path).weights
    claims = [
        claim for claim in recognise(folder_shapes(parts), folder_told(folder)) if claim.form and claim.form.parts
    ]
    if not claims:
        raise SgmError(f"{folder}: {_unknown(parts, read_told(folder / INDEX))}")
    family, form = claims[0].family, claims[0].form
    assert form is not None
    left_over = inside(folder, LEFT_OVER, links_to(folder))
    kept = read_checkpoint(left_over).weights if left_over.is_file() else {}
    weights = {f"{part}.{key}": value for part, inner in parts.items() for key, value in inner.items()}
    pieces, unknown = expanded(family.rules(form.name, weights), weights)
    _all_placed(folder, [key for key in unknown if not harmless(key)], family)
    ours = translated([piece for piece in pieces if not harmless(piece.ours)], weights) | kept
    missing = family.filled(form.name, shapes_of(ours))
    notes = [f"{_listed(missing)}, with which nothing is computed: filled in"] if missing else []
    return ours | _filled(missing, ours), notes, [model for claim in claims for model in claim.models]


def _unknown(parts: Mapping[str, object], index: Mapping[str, object]) -> str:
    """Why no family knows a folder with these parts, whose table of contents has these."""
    forms = folder_forms()
    named = [form for form in forms if all(part in index for part in form.parts)] or forms
    lacking = [[part for part in form.parts if part not in parts] for form in named]
    fewest = min(lacking, key=len, default=[])
    if fewest:
        return f"has no {' and no '.join(fewest)}, so it is not a whole model"
    return f"no installed family has a model with these keys of {', '.join(parts)}"


def _listed(missing: Collection[str]) -> str:
    """The tensors that are missing, by module."""
    keys = [key.split(".") for key in missing]
    shared = _shared(keys[0][:-1], keys[-1])
    names = dict.fromkeys(".".join(key[shared : shared + 3]) for key in keys)
    return f"{'.'.join(keys[0][:shared])} has no {' and no '.join(names)}"


def _shared(one: Sequence[str], other: Sequence[str]) -> int:
    """How many words two keys have in common from their beginning."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _filled(missing: Mapping[str, tuple[Sequence[int], float]], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the precision of what is nearest to them by name."""
    found = {}
    for key, (shape, value) in missing.items():
        words = key.split(".")
        like = max(weights, key=lambda other: _shared(words, other.split(".")))
        found[key] = weights[like].new_full(shape, value)
    return found


def _all_placed(place: Path, unknown: Sequence[str], family: Family) -> None:
    if unknown:
        more = f", and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        part, _, key = unknown[0].partition(".")
        raise SgmError(f"{place / part}: {key}{more}: there is no such part in {family.title}")


# --- into a folder -------------------------------------------------------------------------------------------------


def write_folder(folder: Path, weights: Mapping[str, Tensor], config: Config, family: Family, form: Form) -> list[str]:
    """Write the weights of a model, by our keys, as a folder of diffusers; gives notes.

    Args:
        folder: that is not there yet; one that is half written never is.
        weights: of the model.
        config: of it, for what the shapes do not say.
        family: its family.
        form: the folder's.

    Raises:
        SgmError: the model cannot be written so.
    """
    work = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        notes = _write(work, weights, config, family, form)
        work.rename(folder)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return notes


def _write(folder: Path, weights: Mapping[str, Tensor], config: Config, family: Family, form: Form) -> list[str]:
    from sgm_core.checkpoints.files import shapes_of
    from sgm_core.checkpoints.pieces import translated

    files = family.folder(form.name, shapes_of(weights), config.to_dict())
    if files is None:
        raise SgmError(f"{family.title} cannot be written as a folder of diffusers")
    index = files["model_index"]
    pieces, unknown = expanded(family.rules(form.name, weights), weights, back=True)
    _all_placed(Path(), [key for key in unknown if key.startswith((NETWORK, FIRST_STAGE))], family)
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in translated(pieces, weights, back=True).items():
        part, _, name = key.partition(".")
        parts.setdefault(part, {})[name] = value
    for part, inner in parts.items():
        save(folder / part / f"{stem_of(index[part])}.safetensors", inner)
    notes: list[str] = []
    for path, told in files.items():
        if isinstance(told, Mapping):
            write_json(folder / f"{path}.json", told)
        elif not copy_tokenizer(told, folder / path):
            notes.append(f"{path} is not in it: a pipeline needs the files of CLIP's tokenizer there")
    left = {key: weights[key] for key in unknown}
    if left:
        save(folder / LEFT_OVER, left)
        notes.append(f"{LEFT_OVER} holds {len(left)} tensors that diffusers has no place for; the way back needs it")
    return notes


def save(path: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """As `.safetensors`; of tensors that are part of a larger one, or that another key has too, a copy."""
    import torch
    from safetensors.torch import save_file

    taken: set[int] = set()

    def alone(tensor: Tensor) -> Tensor:
        whole = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes
        is_first = tensor.data_ptr() not in taken
        taken.add(tensor.data_ptr())
        return tensor if whole and is_first else tensor.clone(memory_format=torch.contiguous_format)

    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        save_file(
            {key: alone(value) for key, value in weights.items()}, temporary, {"format": "pt", **(metadata or {})}
        )


def copy_tokenizer(model: Any, target: Path) -> bool:
    """Copy the files of a tokenizer out of a local folder; false where that has none."""
    files = ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
    found = [Path(model) / name for name in files if model is not None and (Path(model) / name).is_file()]
    if not found:
        return False
    target.mkdir(parents=True, exist_ok=True)
    for file in found:
        shutil.copyfile(inside(Path(model), file.name, links_to(Path(model))), target / file.name)
    return True


def read_told(path: Path) -> dict[str, Any]:
    """SgmError where it is not there or no JSON object."""
    if not path.exists():
        raise SgmError(f"{path}: no such file: not a folder of diffusers, or not all of it")
    return read_object(path)


def write_json(path: Path, told: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
