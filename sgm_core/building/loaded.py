"""An engine from a checkpoint: its config is found, it is built without memory for weights, then filled."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from sgm_core.building.fresh import build_engine
from sgm_core.building.weightless import weightless
from sgm_core.checkpoints.files import Checkpoint, CheckpointError, read_checkpoint, refuse_url, shapes_of
from sgm_core.checkpoints.load import fill, load_into
from sgm_core.checkpoints.manifest import to_load
from sgm_core.checkpoints.pieces import translated
from sgm_core.checkpoints.recognise import recognise
from sgm_core.checkpoints.restoring import restoring
from sgm_core.config.api import Config, config_from, load_config
from sgm_core.config.build import BuildError
from sgm_core.engine import DiffusionEngine


def load_engine(
    path: str | Path | Checkpoint,
    config: Config | Mapping[str, Any] | str | Path | None = None,
    *,
    dtype: torch.dtype | None = None,
    first_stage_dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    take_average: bool = True,
    verify: bool | None = None,
) -> DiffusionEngine:
    """The engine of a run folder, a `.ckpt` or a `.safetensors` file, ours or of a public model: built, loaded, in eval
    mode. Of a run folder it is the newest checkpoint that is whole, with a warning for each that is not.

    Nothing is held twice: a tensor that needs no other precision or device stays in the mapped file, which the system
    reads as it is used; each other one is read, converted and let go of.

    Args:
        path: the folder or file; or what was read, such as parts from several files by our keys.
        config: of the model, or its name. None: that which the file holds, else that of the public model which it is by
            its keys.
        dtype: of the weights; None: float32, as they are built. A float32 table of noise levels stays one.
        first_stage_dtype: of first stages; None: `dtype`, but float32 where the config has `first_stage_autocast:
            false`, since such a first stage overflows in half precision.
        device: where to.
        take_average: a model whose config has no average takes averaged weights (EMA) where the file has them.
        verify: whether the content of a checkpoint is compared with the sum in its manifest, for which all of it is
            read. None does so up to 2 GiB; the size is always compared.

    Raises:
        CheckpointError: no such file, one that is not what its manifest says, no config known, components that are
            not installed (with the command that installs them), weights that do not fit.
        ConfigError, BuildError: the config does not build with the installed versions.
    """
    if not isinstance(path, Checkpoint):
        refuse_url(path)
    checkpoint = path if isinstance(path, Checkpoint) else read_checkpoint(to_load(Path(path), verify))
    filled = partial(
        fill,
        checkpoint=in_our_form(checkpoint),
        take_average=take_average,
        dtype=dtype,
        first_stage_dtype=first_stage_dtype,
        device=torch.device(device),
    )
    chosen = choose_config(checkpoint, config)
    try:
        with weightless():
            engine = built(chosen)
        filled(engine)
    except BuildError:  # a constructor that looks at the values of its parameters
        engine = built(chosen)
        filled(engine)
    return engine if config is not None else remembering(engine, checkpoint)


def remembering(engine: DiffusionEngine, checkpoint: Checkpoint) -> DiffusionEngine:
    """The engine, which knows what the one in the checkpoint was trained on."""
    was = checkpoint.provenance
    if was is not None and was.latent_shape is not None:
        engine.latent_shape = tuple(was.latent_shape)
    if was is not None and engine.provenance is not None:
        engine.provenance = replace(engine.provenance, data=was.data)
    return engine


def rebuilt(checkpoint: Checkpoint) -> DiffusionEngine:
    """The engine of a checkpoint, with weights of its own, in training mode. It caches nothing.

    Raises:
        CheckpointError, ConfigError, BuildError: as `load_engine`.
    """
    engine = built(choose_config(checkpoint, None))
    load_into(engine, checkpoint)
    return remembering(engine, checkpoint)


def built(config: Config) -> DiffusionEngine:
    """The engine of a config, whose weights are still to come from a file: it reads none, and caches nothing."""
    with restoring():
        return cast(DiffusionEngine, build_engine(config))


def in_our_form(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with our tensors, if its form has others. If only names differ, it stays as it is."""
    claim = next((claim for claim in recognise(shapes_of(checkpoint.weights)) if claim.whole), None)
    pieces, unknown = claim.pieces(checkpoint.weights) if claim else ([], [])
    if all(piece.is_name for piece in pieces):
        return checkpoint
    others = {key: checkpoint.weights[key] for key in unknown}
    return Checkpoint(checkpoint.path, translated(pieces, checkpoint.weights) | others, checkpoint.provenance, False)


def choose_config(checkpoint: Checkpoint, config: Config | Mapping[str, Any] | str | Path | None) -> Config:
    """The config of a file: what is given, else what it holds, else that of the public model that its keys say it is.

    Raises:
        CheckpointError: components are missing; no config is given, held or known, or several would do.
        ConfigError: the one that is given cannot be read.
    """
    path, provenance = checkpoint.path, checkpoint.provenance
    if isinstance(config, (str, Path)):
        return load_config(config)
    if config is not None:
        return config_from(config if isinstance(config, Config) else dict(config))
    if provenance is not None:
        missing = provenance.missing()
        if missing:
            raise CheckpointError("\n".join([f"{path} needs components that are not installed:", *missing]))
        for line in (*provenance.changed(), *provenance.missing_plugins()):
            warnings.warn(f"{path}: {line}", stacklevel=3)
        return config_from(provenance.config, str(path))
    claims = recognise(shapes_of(checkpoint.weights))
    known = [model for claim in claims for model in claim.models]
    form = next((claim.form for claim in claims if claim.form), None)
    if form is not None and form.remedy:
        raise CheckpointError(f"{path}: it is {form.title}, not a model; {form.remedy}")
    shipped = [model.config for model in known if model.config]
    if len(shipped) == 1:
        return load_config(shipped[0])
    if shipped:
        titles = " or ".join(f"{model.config} ({model.title})" for model in known)
        raise CheckpointError(f"{path}: by its keys it may be {titles}; say which config is its")
    what = "holds weights but no config"
    if known:
        why = f" ({known[0].reason})" if known[0].reason else ""
        what = f"is {known[0].title}, of which no config is shipped{why}"
    raise CheckpointError(
        f"{path}: {what}. Give the config of its model, load_engine(path, config), or load it into an engine with "
        "engine.load_weights(path)"
    )
