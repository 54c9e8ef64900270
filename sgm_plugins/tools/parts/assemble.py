"""The weights and the config of a model from its parts."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sgm_core.checkpoints.family import Found, Rule, expanded
from sgm_core.checkpoints.layouts import CONDITIONER, harmless
from sgm_core.checkpoints.recognise import Claim, recognise
from sgm_core.errors import SgmError, printable
from sgm_plugins.tools.convert.scheduler import parts_of_scheduler
from sgm_plugins.tools.convert.scheduler_settings import read_settings
from sgm_plugins.tools.parts.folder import INDEX, is_folder_of_diffusers, places_of, told_of, weight_files

if TYPE_CHECKING:
    from torch import Tensor

    from sgm_core.checkpoints.files import Checkpoint
    from sgm_core.config.api import Config

Parts = str | Path | Mapping[str, str | Path]
"""A folder with parts of a model, or the place of each by name."""


class Assembled(NamedTuple):
    """What a model's files hold.

    Attributes:
        path: the folder or file.
        weights: by the keys of the files; those of a part that has a place of its own begin with its name.
        found: what else is known.
        files: all files of weights.
    """

    path: Path
    weights: dict[str, Tensor]
    found: Found
    files: tuple[Path, ...]


def assemble(model: Path, parts: Parts | None = None) -> Assembled:
    """Read the weights of a model, mapped, and what stands beside them.

    Args:
        model: a folder of diffusers, or a file with the network and perhaps more.
        parts: what the model lacks: a folder that has it, or the place of each part by its name in a folder of
            diffusers.

    Raises:
        SgmError: a place where nothing is, or whose files cannot be read.
    """
    from sgm_core.checkpoints.files import read_checkpoint

    own = places_of(model) if is_folder_of_diffusers(model) else {}
    if isinstance(parts, Mapping):
        others = {name: Path(place) for name, place in parts.items()}
    else:
        others = {} if parts is None else places_of(Path(parts))
    for name, place in others.items():
        if not place.exists():
            raise SgmError(f"{name}: no such file or folder: {place}")
    places = {**others, **own} if not isinstance(parts, Mapping) else {**own, **others}
    folders = [Path(parts)] if isinstance(parts, str | Path) and is_folder_of_diffusers(Path(parts)) else []
    told = told_of(places, model if own else next(iter(folders), None))
    files = {name: weight_files(place) for name, place in places.items()}
    weights = {} if own else dict(read_checkpoint(model).weights)
    for name, paths in files.items():
        for path in paths:
            weights |= {f"{name}.{key}": value for key, value in read_checkpoint(path).weights.items()}
    read = [path for paths in files.values() for path in paths]
    return Assembled(model, weights, Found(told, places), (*([] if own else [model]), *read))


def put_together(assembled: Assembled) -> tuple[Checkpoint, Config]:
    """The weights by our keys, and the config of the model.

    Raises:
        SgmError: no family knows it, parts are missing, or weights that have no place.
    """
    from sgm_core.checkpoints.files import Checkpoint, shapes_of
    from sgm_core.checkpoints.pieces import translated
    from sgm_core.config.api import config_from

    shapes = shapes_of(assembled.weights)
    claim, config = _known(assembled, shapes)
    _take_scheduler(config, assembled)
    assert claim.form is not None
    keys = list(assembled.weights)
    texts = list(_text_rules(config, assembled.found, keys))
    taken = tuple({f"{rule.theirs.partition('.')[0]}." for rule in texts})
    rules = [rule for rule in claim.family.rules(claim.form.name, keys) if not f"{rule.theirs}.".startswith(taken)]
    pieces, unknown = expanded([*rules, *texts], keys)
    parts = tuple(f"{name}." for name in assembled.found.places)
    # a file of the whole model wins over a part of the same
    apart = translated([piece for piece in pieces if piece.theirs.startswith(parts)], assembled.weights)
    inside = translated([piece for piece in pieces if not piece.theirs.startswith(parts)], assembled.weights)
    ours = {key: value for key, value in (apart | inside).items() if not harmless(key)}
    own = [key for key in unknown if key.startswith((CONDITIONER, "first_stage_model.", "model."))]
    ours |= {key: assembled.weights[key] for key in own if not harmless(key)}
    if strange := [key for key in unknown if not harmless(key) and key not in own]:
        more = f", and {len(strange) - 1} more" if strange[1:] else ""
        raise SgmError(f"{assembled.path}: {printable(strange[0], 100)}{more}: no such part in {claim.family.title}")
    return Checkpoint(assembled.path, ours, None, False), config_from(config, str(assembled.path))


def _known(assembled: Assembled, shapes: Mapping[str, Sequence[int]]) -> tuple[Claim, dict[str, Any]]:
    """The family of a model, and the config that it makes of it."""
    claims = [claim for claim in recognise(shapes, assembled.found.told) if claim.form is not None]
    for claim in claims:
        assert claim.form is not None
        config = claim.family.config(claim.form.name, shapes, assembled.found)
        if config is not None:
            return claim, {**config, "model": dict(config["model"])}
    if claims:
        raise SgmError(f"{assembled.path}: it is {claims[0].family.title}, which is not built from its parts here")
    index = assembled.found.told.get(Path(INDEX).stem, {})
    names = [str(index.get("_class_name", ""))]
    names += [
        f"{name}: {row[-1]}" for name, row in index.items() if isinstance(row, list) and name in shapes_parts(shapes)
    ]
    said = printable(", ".join(filter(None, names)), 200)
    raise SgmError(f"{assembled.path}: no installed family knows {said or 'a model with these keys'}")


def shapes_parts(shapes: Mapping[str, Sequence[int]]) -> set[str]:
    """The first words of all keys."""
    return {key.partition(".")[0] for key in shapes}


def _take_scheduler(config: dict[str, Any], assembled: Assembled) -> None:
    """Draw as the scheduler of a folder says, with the number of steps and the guidance that the config has."""
    place = assembled.found.places.get("scheduler")
    if place is None:
        return
    own = dict(config["model"].get("sampler") or {})
    try:
        parts, notes = parts_of_scheduler(read_settings(place))
    except SgmError as error:
        name = own.get("use", "its family's sampler")
        warnings.warn(f"{error}. Drawn with {name} instead", stacklevel=4)
        return
    if notes:
        warnings.warn(f"{place}: {'; '.join(notes)}", stacklevel=4)
    kept = {key: own[key] for key in ("num_steps", "guider") if key in own}
    config["model"] |= {"denoiser": parts.denoiser, "sampler": {**parts.sampler, **kept}}


def _text_rules(config: Mapping[str, Any], found: Found, keys: Sequence[str]) -> Iterator[Rule]:
    """The names of the text encoders that are embedders through transformers, and so have its names on both sides."""
    parts = {str(place): name for name, place in found.places.items()}
    for i, slot in enumerate(config["model"]["conditioner"]["embedders"]):
        embedder = slot["embedder"]
        part = parts.get(str(embedder.get("model"))) if isinstance(embedder, Mapping) else None
        here = [key for key in keys if part is not None and key.startswith(f"{part}.")]
        if not here:
            continue
        tower = f"{CONDITIONER}embedders.{i}.transformer"
        if embedder["use"] == "clip_text" and not any(key.startswith(f"{part}.text_model.") for key in here):
            yield Rule(f"{tower}.text_model", f"{part}")  # newer versions of transformers leave it out
            yield Rule(f"{tower}.text_projection", f"{part}.text_projection")
        else:
            yield Rule(tower, f"{part}")
