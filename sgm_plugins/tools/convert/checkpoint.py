"""`sgm convert checkpoint`: one file, ours or of generative-models, or a folder of diffusers, into the other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgm_core.checkpoints.files import Checkpoint, read_checkpoint, save_weights
from sgm_core.checkpoints.layouts import AVERAGE, harmless, own_names
from sgm_core.checkpoints.manifest import to_load
from sgm_core.checkpoints.provenance import Provenance
from sgm_core.config.api import Config, load_config
from sgm_core.errors import SgmError
from sgm_plugins.tools.convert.diffusers.folder import INDEX, read_folder, write_folder

if TYPE_CHECKING:
    from torch import Tensor


def convert_checkpoint(source: Path, target: Path, config: str | None = None) -> list[str]:
    """Write a checkpoint in another form; gives notes. Every weight is the same, bit for bit.

    Args:
        source: a `.safetensors` or `.ckpt` file, a run folder, or a folder of diffusers.
        target: `NAME.safetensors`, one file with its config and lock, whose keys are those of generative-models too; or
            the name of a new folder, for diffusers.
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
        if not target.suffix:
            raise SgmError(f"{source} is a folder of diffusers already: write one file, --out NAME.safetensors")
        weights, notes, known = read_folder(source)
        chosen = [model.config for model in known if model.config]
        if config is None and len(chosen) != 1:
            raise SgmError(f"{source}: none of the models that are known here; say its config, --config NAME")
        found = load_config(config or chosen[0])
        return [*notes, *_write_file(target, Checkpoint(source, weights, None), found)]
    from sgm_core.building.loaded import choose_config

    checkpoint = read_checkpoint(to_load(source))
    found = choose_config(checkpoint, config)
    if target.suffix:
        return _write_file(target, checkpoint, found)
    ours = {name: checkpoint.weights[key] for key, name in own_names(checkpoint.weights).items()}
    dropped = [name for name in ours if name.startswith(AVERAGE)]
    _fitting(Checkpoint(checkpoint.path, checkpoint.weights, None), found)
    kept = {name: value for name, value in ours.items() if not (name.startswith(AVERAGE) or harmless(name))}
    notes = write_folder(target, kept, found)
    return [*notes, *(["its averaged weights (EMA) are left out: diffusers has no place for them"] if dropped else [])]


def _write_file(target: Path, checkpoint: Checkpoint, config: Config) -> list[str]:
    """One file with the weights, what the config computes beside them, config and lock."""
    engine, names, passed_over = _fitting(checkpoint, config)
    weights: dict[str, Tensor] = {name: checkpoint.weights[key] for name, key in names.items()}
    for name, value in engine.state_dict().items():  # tables that the file did not have
        if not value.is_meta:
            weights.setdefault(name, value)
    shape = engine.latent_shape if hasattr(engine, "latent_shape") else None
    if checkpoint.provenance is not None:
        shape = checkpoint.provenance.latent_shape or shape
    provenance = Provenance.of(config.to_dict(), config.components).with_shape(shape)
    save_weights(weights, target, provenance)
    return [f"{len(passed_over)} entries that are no weights are left out: {passed_over[0]}"] if passed_over else []


def _fitting(checkpoint: Checkpoint, config: Config) -> tuple[Any, dict[str, str], list[str]]:
    """An engine without memory for weights, which key of the file is which of its own, and the keys that are none."""
    from sgm_core.building.fresh import build_engine
    from sgm_core.checkpoints.match import match
    from sgm_core.checkpoints.restoring import restoring
    from sgm_core.checkpoints.weightless import weightless

    with restoring(), weightless():
        engine: Any = build_engine(config)
    names, report = match(engine, checkpoint.path, checkpoint.weights)
    if not report.fits:
        raise SgmError(str(report))
    taken = set(names.values())
    return engine, names, [key for key in checkpoint.weights if key not in taken]
