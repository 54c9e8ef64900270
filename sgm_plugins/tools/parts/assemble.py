"""The weights and the config of a model from its parts."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sgm_core.checkpoints.family import Found, Rule, expanded
from sgm_core.checkpoints.layouts import CONDITIONER, FIRST_STAGE, harmless
from sgm_core.checkpoints.recognise import Claim, recognise
from sgm_core.errors import SgmError, printable
from sgm_plugins.tools.convert.scheduler import parts_of_scheduler
from sgm_plugins.tools.convert.scheduler_settings import read_settings
from sgm_plugins.tools.parts.folder import INDEX, is_folder_of_diffusers, places_of, told_in, told_of, weight_files

if TYPE_CHECKING:
    from torch import Tensor

    from sgm_core.checkpoints.files import Checkpoint
    from sgm_core.config.api import Config

TEXTS = (CONDITIONER, "cond_stage_model.", "model.cond_stage_model.", "text_encoders.")
"""Beginnings of the keys of text encoders in a file of a whole model."""

FLOW = "FlowMatchEulerDiscreteScheduler"
"""The scheduler of flow models, which their families read themselves."""

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
    told = told_in(model) | told_of(places, model if own else next(iter(folders), None))
    # the network of a file is the file's own
    files = {name: weight_files(place) for name, place in places.items() if own or name not in NETWORKS}
    weights = {} if own else dict(read_checkpoint(model).weights)
    for name, paths in files.items():
        for path in paths:
            weights |= {f"{name}.{key}": value for key, value in read_checkpoint(path).weights.items()}
    read = [path for paths in files.values() for path in paths]
    return Assembled(model, weights, Found(told, places), (*([] if own else [model]), *read))


def put_together(assembled: Assembled, whole: bool = True) -> tuple[Checkpoint, Config]:
    """The weights by our keys, and the config of the model.

    Args:
        whole: the model is to draw, so that no part may be missing.

    Raises:
        SgmError: no family knows it, parts are missing, or weights that have no place.
    """
    from sgm_core.checkpoints.files import Checkpoint, shapes_of
    from sgm_core.checkpoints.pieces import translated
    from sgm_core.config.api import config_from

    shapes = shapes_of(assembled.weights)
    claim, config = _known(assembled, shapes, whole)
    config = _scheduled(claim, config, assembled, shapes)
    assert claim.form is not None
    keys = list(assembled.weights)
    named = list(claim.family.rules(claim.form.name, keys))
    texts = list(_text_rules(config, assembled.found, keys, named))
    taken = tuple({f"{rule.theirs.partition('.')[0]}." for rule in texts})
    rules = [rule for rule in named if not f"{rule.theirs}.".startswith(taken)]
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


NETWORKS = ("transformer", "unet")
"""Parts that are networks: of these a place may hold the config.json alone."""


def lacks_parts(path: Path) -> bool:
    """Whether a file holds the network of a model alone, of a family whose models are put together from parts."""
    from sgm_core.checkpoints.files import read_checkpoint, shapes_of

    if path.suffix != ".safetensors" or not path.is_file():
        return False
    checkpoint = read_checkpoint(path)
    if checkpoint.provenance is not None or any(key.startswith(TEXTS) for key in checkpoint.weights):
        return False
    claims = [claim for claim in recognise(shapes_of(checkpoint.weights)) if claim.whole and claim.form is not None]
    return any(form.parts and NETWORKS[0] in form.parts for claim in claims for form in claim.family.forms)


def _check_parts(claim: Claim, assembled: Assembled) -> None:
    """SgmError if parts are missing: all of them in one message."""
    places, index = assembled.found.places, assembled.found.told.get(Path(INDEX).stem)
    wanted = next((form.parts for form in claim.family.forms if form.parts), ())
    held = {"vae": any(key.startswith(FIRST_STAGE) for key in assembled.weights)}
    has_texts = any(key.startswith(TEXTS) for key in assembled.weights)
    missing = []
    for part in wanted:
        if part in NETWORKS or (index is not None and (index.get(part) or [None])[-1] is None):
            continue
        names = [part, *([part.replace("text_encoder", "tokenizer")] if part.startswith("text_encoder") else [])]
        missing += [name for name in names if name not in places and not held.get(name, name == part and has_texts)]
    if missing:
        places_said = ", ".join(f"{name} ({place})" for name, place in places.items())
        options = " ".join(f"--part {part}=PATH" for part in missing)
        raise SgmError(
            f"{assembled.path} is {claim.family.title} and lacks {', '.join(missing)}: give {options}, or one folder "
            f"that has them (--part FOLDER). Found so far: {places_said or 'nothing beside it'}"
        )


def _known(assembled: Assembled, shapes: Mapping[str, Sequence[int]], whole: bool) -> tuple[Claim, dict[str, Any]]:
    """The family of a model, and the config that it makes of it."""
    claims = [claim for claim in recognise(shapes, assembled.found.told) if claim.form is not None]
    for claim in claims:
        assert claim.form is not None
        if not claim.family.models:
            continue
        if whole:
            _check_parts(claim, assembled)
        try:
            config = claim.family.config(claim.form.name, shapes, assembled.found)
        except SgmError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            said = printable(f"{type(error).__name__}: {error}", 100)
            raise SgmError(
                f"{assembled.path}: the config.json of a part does not describe a part of {claim.family.title} ({said})"
            ) from error
        shipped = [model.config for model in claim.models if model.config]
        if config is None and len(shipped) == 1:
            config = _published(shipped[0], assembled.found)
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


def _published(name: str, found: Found) -> dict[str, Any]:
    """The shipped config of a published model, with the tokenizers that were given."""
    from sgm_core.config.api import load_config

    config = load_config(name).to_dict()
    embedders = [slot["embedder"] for slot in config["model"]["conditioner"]["embedders"]]
    texts = [one for one in embedders if isinstance(one, dict) and one["use"] in ("clip_text", "open_clip_text")]
    for i, embedder in enumerate(texts):
        part = "tokenizer" if i == 0 else f"tokenizer_{i + 1}"
        if part in found.places:
            embedder["tokenizer"] = str(found.places[part])
    return config


def shapes_parts(shapes: Mapping[str, Sequence[int]]) -> set[str]:
    """The first words of all keys."""
    return {key.partition(".")[0] for key in shapes}


def _scheduled(claim: Claim, config: dict[str, Any], assembled: Assembled, shapes: Mapping[str, Sequence[int]]) -> Any:
    """The config, which draws as the scheduler of the folder says where its family leaves that to it."""
    place = assembled.found.places.get("scheduler")
    if place is None:
        return config
    settings, own = read_settings(place), config["model"].get("sampler", {})
    if "denoiser" in config["model"]:
        name = settings.get("_class_name")
        if name != FLOW:
            warnings.warn(f"{place}: {printable(name, 60)}: drawn with {own.get('use')} instead", stacklevel=4)
        return config
    try:
        parts, notes = parts_of_scheduler(settings)
    except SgmError as error:
        places = {name: where for name, where in assembled.found.places.items() if name != "scheduler"}
        assert claim.form is not None
        config = dict(claim.family.config(claim.form.name, shapes, assembled.found._replace(places=places)) or {})
        warnings.warn(f"{error}. Drawn with {config['model']['sampler']['use']} instead", stacklevel=4)
        return config
    if notes:
        warnings.warn(f"{place}: {'; '.join(notes)}", stacklevel=4)
    return {**config, "model": {**config["model"], "denoiser": parts.denoiser, "sampler": {**parts.sampler, **own}}}


def _text_rules(config: Mapping[str, Any], found: Found, keys: Sequence[str], named: Iterable[Rule]) -> Iterator[Rule]:
    """The names of the CLIP text encoders that the config reads through transformers, which has one name for them,
    where the family names those of its public files, of OpenCLIP."""
    parts = {str(place): name for name, place in found.places.items()}
    for i, slot in enumerate(config["model"]["conditioner"]["embedders"]):
        embedder = slot["embedder"]
        part = parts.get(str(embedder.get("model"))) if isinstance(embedder, Mapping) else None
        tower = f"{CONDITIONER}embedders.{i}.transformer"
        here = [key for key in keys if part is not None and key.startswith(f"{part}.")]
        if not here or embedder["use"] != "clip_text" or any(rule.ours.startswith(tower) for rule in named):
            continue
        start = "" if any(key.startswith(f"{part}.text_model.") for key in here) else ".text_model"
        yield Rule(f"{tower}{start}", f"{part}")  # newer versions of transformers leave it out
        yield Rule(f"{tower}.text_projection", f"{part}.text_projection")
