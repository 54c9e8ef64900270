"""Where the parts of a model are, and what stands in the files beside their weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sgm_core.errors import SgmError
from sgm_core.files import BadFileError, inside, parse_json
from sgm_plugins.reading import links_to, read_object

INDEX = "model_index.json"
TOLD = "sgm_told"
"""In a file's metadata: what its keys do not tell, as the JSON files of a folder of diffusers say it."""

STEMS = ("diffusion_pytorch_model", "model")
"""What files of weights are called in a part: of diffusers, of transformers."""


def is_folder_of_diffusers(path: Path) -> bool:
    """Whether it is a folder of a whole model, with a table of contents."""
    return (path / INDEX).is_file()


def places_of(folder: Path) -> dict[str, Path]:
    """The parts of a folder of diffusers by name, those that its table of contents says are there; of any other folder
    all of its sub-folders and files of weights.

    Raises:
        SgmError: no such folder; a part that leads out of it.
    """
    if not folder.is_dir():
        raise SgmError(f"{folder}: no such folder")
    root = links_to(folder)
    if is_folder_of_diffusers(folder):
        index = read_object(inside(folder, INDEX, root))
        rows = {name: row for name, row in index.items() if isinstance(row, list) and row and row[-1] is not None}
        return {name: inside(folder, name, root) for name in rows if (folder / name).is_dir()}
    found = {path.stem: path for path in sorted(folder.glob("*.safetensors"))}
    found |= {path.name: path for path in sorted(folder.iterdir()) if path.is_dir()}
    return {name: inside(folder, path.name, root) for name, path in found.items()}


def weight_files(place: Path) -> list[Path]:
    """The `.safetensors` files of a part, a file or a folder; none for a part without weights, such as a tokenizer.

    Raises:
        SgmError: a table of shards that names something else; weights as `.bin` alone.
    """
    if place.is_file():
        return [place]
    root = links_to(place)
    for stem in STEMS:
        for name in (f"{stem}.safetensors", f"{stem}.fp16.safetensors"):
            if (place / name).is_file():
                return [inside(place, name, root)]
        shards = place / f"{stem}.safetensors.index.json"
        if shards.is_file():
            table = read_object(inside(place, shards.name, root)).get("weight_map")
            if not isinstance(table, dict):
                raise SgmError(f"{shards}: it has no weight_map")
            return [inside(place, _named(shards, name), root) for name in sorted(set(table.values()))]
    others = sorted(place.glob("*.safetensors"))
    if not others and any((place / f"{stem}.bin").is_file() for stem in (*STEMS, "pytorch_model")):
        raise SgmError(f"{place}: no .safetensors; weights as .bin are not read, since they may run code")
    return [inside(place, file.name, root) for file in others]


def told_in(file: Path) -> dict[str, Any]:
    """What `sgm convert checkpoint --to` wrote into the metadata of a file: JSON objects as `told_of` gives them."""
    if file.suffix != ".safetensors" or not file.is_file():
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            text = (opened.metadata() or {}).get(TOLD)
        told = {} if text is None else parse_json(text, file)
    except (SafetensorError, OSError, BadFileError):
        return {}
    return {key: value for key, value in told.items() if isinstance(value, dict)} if isinstance(told, dict) else {}


def _named(shards: Path, name: Any) -> str:
    if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
        raise SgmError(f"{shards}: {str(name)[:100]!r} is not the name of a file with weights")
    return name


def told_of(places: Mapping[str, Path], folder: Path | None = None) -> dict[str, Any]:
    """The JSON objects beside the weights, by part and name without `.json`: "scheduler/scheduler_config".

    Args:
        folder: of diffusers, whose own files are told, too.
    """
    found: dict[str, Any] = {}
    if folder is not None:
        root = links_to(folder)
        found = {file.stem: read_object(inside(folder, file.name, root)) for file in sorted(folder.glob("*.json"))}
    for name, place in places.items():
        if place.is_dir():
            root = links_to(place)
            for file in sorted(place.glob("*config.json")):
                found[f"{name}/{file.stem}"] = read_object(inside(place, file.name, root))
    return found
