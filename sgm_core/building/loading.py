"""An engine with the weights of a file: built without memory for them, then filled straight from the mapped file."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sgm_core.checkpoints.checkpoint import Checkpoint, CheckpointError, read_weights, restoring
from sgm_core.checkpoints.fit import LoadReport
from sgm_core.checkpoints.known_models import identify
from sgm_core.checkpoints.layouts import AVERAGE, layout_of
from sgm_core.checkpoints.match import match
from sgm_core.checkpoints.weightless import weightless
from sgm_core.config.api import Config, build_engine, config_from, load_config
from sgm_core.config.build import BuildError
from sgm_core.roles import FirstStage
from sgm_plugins.cached.parts import keep_in

AT_ONCE = 2**27
"""Bytes that are read before the file is mapped anew: until then, pages that were read count as memory."""


def load(
    checkpoint: Checkpoint,
    config: Config,
    *,
    dtype: torch.dtype | None = None,
    first_stage_dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    take_average: bool = True,
) -> tuple[Any, LoadReport]:
    """The engine of a config with the weights of a file, in eval mode, and how they fitted.

    Nothing is held twice: a tensor that needs no other precision or device stays in the mapped file, which the system
    reads as it is used; each other one is read, converted and let go of. See `load_engine` for the arguments.

    Raises:
        CheckpointError: the weights do not fit, with the reason if that is likely.
        ConfigError, BuildError: the config does not build.
    """
    fill = partial(
        _fill,
        checkpoint=checkpoint,
        take_average=take_average,
        dtype=dtype,
        first_stage_dtype=first_stage_dtype,
        device=torch.device(device),
    )
    try:
        with weightless():
            engine = built(config)
        return engine, fill(engine)
    except (BuildError, _NoValuesError):  # a constructor that looks at the values of its parameters
        engine = built(config)
        return engine, fill(engine)


def built(config: Config) -> Any:
    """The engine of a config, whose weights are still to come from a file: it reads none, and caches nothing."""
    with restoring():
        engine: Any = build_engine(config)
    keep_in(engine, None)  # a cache is for training
    return engine


class _NoValuesError(Exception):
    """Something in a model was made of parameters that had no values, and no file has it."""


def _fill(
    engine: Any,
    *,
    checkpoint: Checkpoint,
    take_average: bool,
    dtype: torch.dtype | None,
    first_stage_dtype: torch.dtype | None,
    device: torch.device,
) -> LoadReport:
    """Give an engine the weights of a file."""
    names, report = match(engine, checkpoint.path, checkpoint.weights, take_average=take_average)
    if not report.fits:
        raise CheckpointError(str(report))
    if first_stage_dtype is None and getattr(engine, "first_stage_autocast", True):
        first_stage_dtype = dtype  # else it stays as it is: what autocast is kept from overflows in half precision
    _cast(engine, dtype, first_stage_dtype)
    shared = _shared(engine)
    own = engine.state_dict()
    live = {name: key for name, key in names.items() if not name.startswith(AVERAGE)}
    filled: dict[str, Tensor] = {}
    converted: dict[str, str] = {}
    for name, key in live.items():
        stored = checkpoint.weights[key]
        if device.type == "cpu" and (name not in own or stored.dtype == own[name].dtype):
            filled[name] = stored
        else:
            converted[name] = key

    def convert(name: str, tensor: Tensor) -> Tensor:
        return tensor.to(device, own[name].dtype if name in own else None, copy=True)

    for group in _groups(checkpoint, converted):
        filled.update(_converted(checkpoint.path, group, convert))
    engine.load_state_dict(filled, strict=False, assign=True)
    for module, attribute, first in shared:
        setattr(module, attribute, first())
    average = getattr(engine, "model_ema", None)
    if average is not None:  # its values were those of parameters without any
        average.track(getattr(engine, "averaged_parameters", engine.trained_parameters)())
    if any(tensor.is_meta for tensor in (*engine.parameters(), *engine.buffers())):
        raise _NoValuesError
    engine.to(device)
    if average is not None:
        shadows = {name.removeprefix(AVERAGE): key for name, key in names.items() if name.startswith(AVERAGE)}
        if shadows:
            average.load_state_dict({name: checkpoint.weights[key] for name, key in shadows.items()}, strict=False)
    engine.eval()
    return report


def _cast(module: nn.Module, dtype: torch.dtype | None, first_stage_dtype: torch.dtype | None) -> None:
    """Set the precision of a model, and that of the first stages in it, of a conditioner too. Parameters without
    values cost nothing here."""
    if isinstance(module, FirstStage):
        module.to(dtype=first_stage_dtype) if first_stage_dtype is not None else None
    elif any(isinstance(inner, FirstStage) for inner in module.modules()):
        for child in module.children():
            _cast(child, dtype, first_stage_dtype)
    elif dtype is not None:
        module.to(dtype=dtype)


def _shared(engine: nn.Module) -> list[tuple[nn.Module, str, Any]]:
    """Where a parameter stands that another module has too: its module, its name there, and what gives the first."""
    places: dict[int, tuple[nn.Module, str]] = {}
    again = []
    for module in engine.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in places:
                owner, first = places[id(parameter)]
                again.append((module, name, lambda owner=owner, first=first: getattr(owner, first)))
            places.setdefault(id(parameter), (module, name))
    return again


def _groups(checkpoint: Checkpoint, keys: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """The keys in groups of about `AT_ONCE` bytes."""
    group: dict[str, str] = {}
    size = 0
    for name, key in keys.items():
        group[name] = key
        size += checkpoint.weights[key].nbytes
        if size >= AT_ONCE:
            yield group
            group, size = {}, 0
    yield group


def _converted(path: Path, group: Mapping[str, str], convert: Callable[[str, Tensor], Tensor]) -> dict[str, Tensor]:
    """Tensors of a file, which is mapped anew, and not any longer when this is done."""
    weights = read_weights(path, group.values()) if group else {}
    return {name: convert(name, weights[key]) for name, key in group.items()}


def choose_config(checkpoint: Checkpoint, config: Config | Mapping[str, Any] | str | Path | None) -> Config:
    """The config of a file: what is given, else what it holds, else that of the public model that its keys say it is.

    Raises:
        CheckpointError: components are missing; no config is given, held or known, or several would do.
        ConfigError: the one that is given can not be read.
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
    layout = layout_of(checkpoint.weights)
    if layout.remedy:
        raise CheckpointError(f"{path}: it is {layout.title}, not a model; {layout.remedy}")
    known = identify({key: tuple(value.shape) for key, value in checkpoint.weights.items()})
    shipped = [model.config for model in known if model.config]
    if len(shipped) == 1:
        return load_config(shipped[0])
    if shipped:
        titles = " or ".join(f"{model.config} ({model.title})" for model in known)
        raise CheckpointError(f"{path}: by its keys it may be {titles}; say which config is its")
    what = f"is {known[0].title}, of which no config is shipped" if known else "holds weights but no config"
    raise CheckpointError(
        f"{path}: {what}. Give the config of its model, load_engine(path, config), or load it into an engine with "
        "engine.load_weights(path)"
    )
