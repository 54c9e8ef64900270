"""Weights of a file into an engine that exists, with or without memory of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from safetensors import safe_open
from torch import Tensor, nn

from sgm_core.checkpoints.files import Checkpoint, open_torch
from sgm_core.checkpoints.fit import LoadReport
from sgm_core.checkpoints.layouts import AVERAGE, SHADOW
from sgm_core.checkpoints.match import is_trainable, match
from sgm_core.config.build import BuildError
from sgm_core.roles import FirstStage

AT_ONCE = 2**27
"""Bytes that are read before the file is mapped anew: until then, pages that were read count as memory."""


def load_into(engine: nn.Module, checkpoint: Checkpoint) -> LoadReport:
    """Load all weights or none; which ones, says `match`. CheckpointError if keys or shapes differ."""
    names, notes = match(engine, checkpoint)
    engine.load_state_dict({name: checkpoint.weights[key] for name, key in names.items()}, strict=False)
    has_average = any(name.startswith(SHADOW) for name in names)
    if is_trainable(engine) and engine.model_ema is not None and not has_average:
        engine.model_ema.track(engine.averaged_parameters())
    return LoadReport(checkpoint.path, notes)


def fill(
    engine: nn.Module,
    *,
    checkpoint: Checkpoint,
    take_average: bool,
    dtype: torch.dtype | None,
    first_stage_dtype: torch.dtype | None,
    device: torch.device,
) -> None:
    """Give an engine the weights of a file, in eval mode.

    Raises:
        CheckpointError: they do not fit.
        BuildError: the engine has to be built with memory for its weights.
    """
    names, _ = match(engine, checkpoint, take_average)
    training = engine if is_trainable(engine) else None
    if first_stage_dtype is None and (training is None or training.first_stage_autocast):
        first_stage_dtype = dtype  # else it stays as it is: what autocast is kept from overflows in half precision
    _cast(engine, dtype, first_stage_dtype)
    shared = _shared(engine)
    own = engine.state_dict()
    filled: dict[str, Tensor] = {}
    averaged: dict[str, Tensor] = {}
    converted: dict[str, str] = {}
    for name, key in names.items():
        stored = checkpoint.weights[key]
        if name.startswith(AVERAGE):
            averaged[name.removeprefix(AVERAGE)] = stored
        elif device.type == "cpu" and (name not in own or stored.dtype == own[name].dtype):
            filled[name] = stored
        else:
            converted[name] = key
    for name, tensor in _read_anew(checkpoint, converted):
        filled[name] = tensor.to(device, own[name].dtype if name in own else None, copy=True)
    engine.load_state_dict(filled, strict=False, assign=True)
    for name, first in shared.items():
        module, _, attribute = name.rpartition(".")
        setattr(engine.get_submodule(module), attribute, engine.get_parameter(first))
    average = None if training is None else training.model_ema
    if training is not None and average is not None:  # its values were those of parameters without any
        average.track(training.averaged_parameters())
    if any(tensor.is_meta for tensor in (*engine.parameters(), *engine.buffers())):
        raise BuildError("a constructor made tensors of parameters without values, and no file has them")
    engine.to(device)
    if average is not None and averaged:
        average.load_state_dict(averaged, strict=False)
    engine.eval()


def _cast(module: nn.Module, dtype: torch.dtype | None, first_stage_dtype: torch.dtype | None) -> None:
    """Set the precision of a model, and that of the first stages in it, of a conditioner too. Parameters without
    values cost nothing here."""
    if isinstance(module, FirstStage):
        dtype = first_stage_dtype
    elif any(isinstance(inner, FirstStage) for inner in module.modules()):
        for child in module.children():
            _cast(child, dtype, first_stage_dtype)
        return
    if dtype is not None:
        module.to(dtype=dtype)


def _shared(engine: nn.Module) -> dict[str, str]:
    """The names of parameters that another module has too, and the first name of each."""
    first: dict[int, str] = {}
    names = {name: first.setdefault(id(p), name) for name, p in engine.named_parameters(remove_duplicate=False)}
    return {name: before for name, before in names.items() if name != before}


def _read_anew(checkpoint: Checkpoint, keys: Mapping[str, str]) -> Iterator[tuple[str, Tensor]]:
    """Some weights by other names, from a file that is mapped anew after each `AT_ONCE` bytes."""
    read: Callable[[str], Tensor] = checkpoint.weights.__getitem__
    left = 0
    for name, key in keys.items():
        if left <= 0 and checkpoint.is_mapped:
            left, path = AT_ONCE, checkpoint.path
            is_torch = path.suffix != ".safetensors"
            read = open_torch(path)[1].__getitem__ if is_torch else safe_open(path, "pt").get_tensor
        left -= checkpoint.weights[key].nbytes
        yield name, read(key)
