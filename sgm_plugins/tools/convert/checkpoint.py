"""`sgm convert checkpoint`: a file of any known form, a run, or a folder of diffusers, into another form."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgm_core.checkpoints.family import Family, Form, expanded
from sgm_core.checkpoints.files import Checkpoint, read_checkpoint, save_weights, shapes_of
from sgm_core.checkpoints.layouts import AVERAGE, OWN, harmless
from sgm_core.checkpoints.manifest import to_load
from sgm_core.checkpoints.recognise import own_names, recognise
from sgm_core.config.api import Config, load_config
from sgm_core.config.provenance import Provenance
from sgm_core.errors import SgmError
from sgm_core.training.base import TrainingEngine
from sgm_plugins.tools.convert.folder import INDEX, folder_told, read_folder, save, write_folder
from sgm_plugins.tools.parts.assemble import assemble, lacks_parts, put_together
from sgm_plugins.tools.parts.folder import TOLD, told_in

if TYPE_CHECKING:
    from torch import Tensor


NAMES = {"original": ("original", "ldm"), "comfy": ("comfy", "original", "ldm")}
"""What forms are called in families, in the order of preference."""

UNTOLD = ("model_index", "transformer/config", "unet/config", "scheduler/scheduler_config", "vae/config")
"""What stands in a file's metadata, by the names of `Found.told`."""


def convert_checkpoint(source: Path, target: Path, config: str | None = None, to: str | None = None) -> list[str]:
    """Write a checkpoint in another form; gives notes. Every weight is the same, bit for bit.

    Args:
        source: a `.safetensors` or `.ckpt` file, a run folder, or a folder of diffusers.
        target: `NAME.safetensors`, one file with its config and lock, whose keys are those of generative-models too; or
            the name of a new folder, for diffusers.
        to: "original", the file of the model's authors; "comfy", that of ComfyUI; "diffusers", a folder; or the form of
            another program, by the name that its family gives it. The keys alone, without a config: what they do not
            tell stands in the file's metadata.
        config: of the model, a name or a file, where the source does not say it and is no known model.

    Raises:
        SgmError: no such source, a target that is there already or of no known form, a model that is not known, weights
            that do not fit it, or that have no place in the other form.
    """
    if target.exists():
        raise SgmError(f"{target}: exists already; choose another --out, or remove it first")
    if target.suffix not in (".safetensors", ""):
        raise SgmError(f"{target}: NAME.safetensors is one file, and a name without an ending a folder of diffusers")
    if not source.exists():
        raise SgmError(f"{source}: no such file or folder")
    from_folder = (source / INDEX).is_file()
    if source.is_dir() and not from_folder and not (source / "checkpoints").is_dir():
        raise SgmError(f"{source}: no {INDEX} here, so no folder of diffusers; and no checkpoints, so no run")
    if from_folder:
        if not target.suffix or to == "diffusers":
            raise SgmError(f"{source} is a folder of diffusers already: write one file, --out NAME.safetensors")
        weights, notes, known = read_folder(source)
        chosen = [model.config for model in known if model.config]
        if to not in (None, OWN.name):
            family, form = _form(weights, to, is_folder=False)
            return [*notes, *_write_form(target, weights, family, form, folder_told(source))]
        if config is None and len(chosen) != 1:
            return [*notes, *_write_file(target, *put_together(assemble(source)))]
        found = load_config(config or chosen[0])
        return [*notes, *_write_file(target, Checkpoint(source, weights, None), found)]
    from sgm_core.building.loaded import choose_config, in_our_form

    path = to_load(source)
    alone = config is None and lacks_parts(path)
    if alone and (to is None or to == OWN.name) and target.suffix:
        raise SgmError(f"{path} is a network alone: --to original, comfy or diffusers write it in another form")
    if to in NAMES and target.suffix and not alone:  # other names alone, for which no config is needed
        renamed = in_our_form(read_checkpoint(path))
        ours = _plain(renamed.weights)
        family, form = _form(ours, to, is_folder=False)
        told = told_in(path) if renamed.provenance is None else _told(family, ours, choose_config(renamed, config))
        return _write_form(target, ours, family, form, told)
    if alone:  # a network, which no engine is built around
        checkpoint, found = put_together(assemble(path), whole=False)
    else:
        checkpoint = read_checkpoint(path)
        found = choose_config(checkpoint, config)
        checkpoint = in_our_form(checkpoint)
    if target.suffix and to in (None, OWN.name):
        return _write_file(target, checkpoint, found)
    if not alone:
        _fitting(checkpoint, found)
    kept = _plain(checkpoint.weights)
    dropped = [key for key in checkpoint.weights if key.startswith(AVERAGE)]
    family, form = _form(kept, to, is_folder=not target.suffix)
    notes = (
        write_folder(target, kept, found, family, form)
        if form.parts
        else _write_form(target, kept, family, form, {**_told(family, kept, found), **told_in(path)})
    )
    return [*notes, *(["its averaged weights (EMA) are left out: this form has no place for them"] if dropped else [])]


def _plain(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The live weights by our names, without what is none."""
    names = own_names(shapes_of(weights))
    kept = [key for key, name in names.items() if not (name.startswith(AVERAGE) or harmless(name))]
    return {names[key]: weights[key] for key in kept}


def _told(family: Family, weights: Mapping[str, Tensor], config: Config) -> Mapping[str, Any]:
    """What a folder of diffusers would say of a model beside its weights; nothing if it cannot be one."""
    try:
        files = family.folder("diffusers", shapes_of(weights), config.to_dict()) or {}
    except SgmError:
        return {}
    return {key: value for key, value in files.items() if isinstance(value, Mapping)}


def _form(weights: Mapping[str, Tensor], to: str | None, is_folder: bool) -> tuple[Family, Form]:
    """The family of a model, by our keys, and its form of a name; of no name, the form that is a folder.

    Raises:
        SgmError: its family has no such form.
    """
    claims = [claim for claim in recognise(shapes_of(weights)) if claim.whole]
    forms = [(claim.family, form) for claim in claims for form in claim.family.forms if form.name != OWN.name]
    for name in NAMES.get(to or "", (to,)):
        for family, form in forms:
            if bool(form.parts) == is_folder and name in (None, form.name):
                return family, form
    if to in NAMES and claims and not is_folder:  # its authors' file has our keys
        return claims[0].family, OWN
    names = dict.fromkeys(f"{form.name} ({'a folder' if form.parts else 'a .safetensors file'})" for _, form in forms)
    title = (
        " or ".join(dict.fromkeys(claim.family.title for claim in claims)) or "a model of no family that is known here"
    )
    wanted = f"the form {to}" if to else "a folder of diffusers"
    raise SgmError(f"{title} cannot be written as {wanted}; its other forms are: {', '.join(names) or 'none'}")


def _write_form(
    target: Path, weights: Mapping[str, Tensor], family: Family, form: Form, told: Mapping[str, Any]
) -> list[str]:
    """One file by the keys of another form. What is told beside them goes into its metadata."""
    from sgm_core.checkpoints.pieces import translated

    metadata = {TOLD: json.dumps({key: told[key] for key in UNTOLD if key in told})}
    if form.name == OWN.name:
        save(target, weights, metadata)
        return []
    pieces, unknown = expanded(family.rules(form.name, weights), weights, back=True)
    save(target, translated(pieces, weights, back=True), metadata)
    return [f"{len(unknown)} tensors have no place in it and are left out: {unknown[0]}"] if unknown else []


def _write_file(target: Path, checkpoint: Checkpoint, config: Config) -> list[str]:
    """One file with the weights, what the config computes beside them, config and lock."""
    engine, names, passed_over = _fitting(checkpoint, config)
    weights: dict[str, Tensor] = {name: checkpoint.weights[key] for name, key in names.items()}
    for name, value in engine.state_dict().items():  # tables that the file did not have
        if not value.is_meta:
            weights.setdefault(name, value)
    shape: Sequence[int] | None = engine.latent_shape if isinstance(engine, TrainingEngine) else None
    if checkpoint.provenance is not None:
        shape = checkpoint.provenance.latent_shape or shape
    save_weights(weights, target, Provenance.of(config.to_dict(), config.components, shape))
    return [f"{len(passed_over)} entries that are no weights are left out: {passed_over[0]}"] if passed_over else []


def _fitting(checkpoint: Checkpoint, config: Config) -> tuple[Any, dict[str, str], list[str]]:
    """An engine without memory for weights, which key of the file is which of its own, and the keys that are none."""
    from sgm_core.building.fresh import build_engine
    from sgm_core.building.weightless import weightless
    from sgm_core.checkpoints.match import match
    from sgm_core.checkpoints.restoring import restoring

    with restoring(), weightless():
        engine: Any = build_engine(config)
    names, _ = match(engine, checkpoint)
    taken = set(names.values())
    return engine, names, [key for key in checkpoint.weights if key not in taken]
