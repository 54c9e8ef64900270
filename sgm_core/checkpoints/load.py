"""Weights of a file into an engine that exists, with or without memory of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sgm_core.checkpoints.files import Checkpoint, CheckpointError, read_weights
from sgm_core.checkpoints.fit import LoadReport
from sgm_core.checkpoints.layouts import AVERAGE, has_average
from sgm_core.checkpoints.match import Trainable, match
from sgm_core.roles import FirstStage

AT_ONCE = 2**27
"""Bytes that are read before the file is mapped anew: until then, pages that were read count as memory."""


def load_into(engine: nn.Module, checkpoint: Checkpoint) -> LoadReport:
    """Load all weights or none; which ones, says `match`.

    Raises:
        CheckpointError: keys or shapes differ; the model is unchanged.
    """
    names, report = match(engine, checkpoint.path, checkpoint.weights)
    if not report.fits:
        raise CheckpointError(str(report))
    engine.load_state_dict({name: checkpoint.weights[key] for name, key in names.items()}, strict=False)
    if isinstance(engine, Trainable) and engine.model_ema is not None and not has_average(names):
        engine.model_ema.track(engine.averaged_parameters())
    return report


class NoValuesError(Exception):
    """Something in a model was made of parameters that had no values, and no file has it."""


def fill(
    engine: nn.Module,
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
    training = engine if isinstance(engine, Trainable) else None
    if first_stage_dtype is None and (training is None or training.first_stage_autocast):
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
        filled.update(_converted(checkpoint, group, convert))
    engine.load_state_dict(filled, strict=False, assign=True)
    for module, attribute, first in shared:
        setattr(module, attribute, first())
    average = None if training is None else training.model_ema
    if training is not None and average is not None:  # its values were those of parameters without any
        average.track(training.averaged_parameters())
    if any(tensor.is_meta for tensor in (*engine.parameters(), *engine.buffers())):
        raise NoValuesError
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


def _converted(
    checkpoint: Checkpoint, group: Mapping[str, str], convert: Callable[[str, Tensor], Tensor]
) -> dict[str, Tensor]:
    """Tensors of a file, which is mapped anew, and not any longer when this is done."""
    weights = read_weights(checkpoint.path, group.values()) if group and checkpoint.is_mapped else checkpoint.weights
    return {name: convert(name, weights[key]) for name, key in group.items()}
