"""How large a model is, from its config alone: parameters and memory of each part, without a weight allocated.

The model is built on the meta device, where tensors have shapes and no values. A constructor that reads weights from a
file asks `sgm_core.shapes.only_measured()` and then reads none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sgm_core.config import listeners
from sgm_core.config.api import Config
from sgm_core.config.build import BuildError, build_plan
from sgm_core.config.plan import Call
from sgm_core.training.base import TrainingEngine
from sgm_core.training.sharding import local


@dataclass
class Size:
    """A part of a model.

    Attributes:
        path: in the config, `model.conditioner.embedders[0]`; for what training adds, `model.optimizer` and so on.
        what: of it: "weights", "gradients", "moments", "shadows".
        trainable, frozen: numbers of parameters; 0 for what is no weight.
        bytes: memory of parameters and buffers, or of what training adds.
    """

    path: str
    what: str
    trainable: int
    frozen: int
    bytes: int


@dataclass
class Measured:
    """All parts of a model; `notes` say what could not be measured, and why."""

    sizes: list[Size]
    notes: list[str]


def measure(config: Config) -> Measured:
    """The sizes of the parts of a config's model, on one device, in the precision in which it is built.

    Raises:
        ConfigError: everything that is wrong with the config.
    """
    plan, _ = config.checked
    model = plan.arguments["model"]
    if not isinstance(model, Call):
        return Measured([], ["the model is an object that Python code gave"])
    try:
        with _unheard(), torch.device("meta"):
            engine = build_plan(model)
    except BuildError as error:
        return Measured([], [f"the model cannot be measured: {error}"])
    notes: list[str] = []
    sizes = sizes_of(engine)
    try:
        sizes.append(Size("model.optimizer", "moments", 0, 0, _moments(engine, _trained(engine))))
    except Exception as error:  # of any optimizer: it may need values
        notes.append(f"model.optimizer cannot be measured: {type(error).__name__}: {error}")
    return Measured([size for size in sizes if size.bytes], notes)


def sizes_of(engine: Any, optimizers: Iterable[torch.optim.Optimizer] = ()) -> list[Size]:
    """The sizes of the parts of a model as it is: weights, gradients (whether or not there are any yet), averages.

    Args:
        engine: the model.
        optimizers: that have taken a step; what they keep is counted too.
    """
    parameters = _trained(engine)
    trained = {id(parameter) for parameter in parameters}
    sizes = [_weights(path, module, trained) for path, module in _parts(engine)]
    sizes.append(Size("model", "gradients", 0, 0, _bytes(parameters)))
    if isinstance(engine, TrainingEngine) and engine.model_ema is not None:
        sizes.append(Size("model.ema", "shadows", 0, 0, _bytes(engine.model_ema.state_dict().values())))
    for optimizer in optimizers:
        sizes.append(Size("model.optimizer", "moments", 0, 0, kept_of(optimizer)))
    return [size for size in sizes if size.bytes]


def without_gradient(engine: Any) -> dict[str, int]:
    """Of each part, how many of its trained parameters have no gradient; parts where all have one are left out.

    Args:
        engine: the model, after a backward pass.
    """
    idle = {id(parameter) for parameter in _trained(engine) if parameter.grad is None}
    numbers = {path: sum(p.numel() for p in part.parameters() if id(p) in idle) for path, part in _parts(engine)}
    return {path: number for path, number in numbers.items() if number}


def kept_of(optimizer: torch.optim.Optimizer) -> int:
    """What an optimizer remembers of its parameters."""
    return sum(_bytes(v for v in state.values() if isinstance(v, Tensor)) for state in optimizer.state.values())


@contextmanager
def _unheard() -> Iterator[None]:
    """Plugins are told of components that are built; these are none."""
    before, listeners.built[:] = listeners.built[:], []
    try:
        yield
    finally:
        listeners.built[:] = before


def _parts(engine: Any) -> Iterator[tuple[str, nn.Module]]:
    """The parts with weights, by their path in the config; each embedder is one."""
    for name, module in engine.named_children():
        if name == "model_ema":
            continue
        embedders = getattr(module, "embedders", None)
        if isinstance(embedders, nn.ModuleList):
            yield from ((f"model.conditioner.embedders[{i}]", embedder) for i, embedder in enumerate(embedders))
            continue
        yield {"model": "model.network", "first_stage_model": "model.first_stage"}.get(name, f"model.{name}"), module


def _weights(path: str, module: nn.Module, trained: set[int]) -> Size:
    parameters = list(module.parameters())
    numbers = [0, 0]
    for parameter in parameters:
        numbers[id(parameter) in trained] += parameter.numel()
    return Size(path, "weights", numbers[1], numbers[0], _bytes([*parameters, *module.buffers()]))


def _trained(engine: Any) -> list[nn.Parameter]:
    """What the optimizer is given: what the engine says, or all that requires a gradient."""
    if isinstance(engine, TrainingEngine):
        return list(engine.trained_parameters().values())
    return [parameter for parameter in engine.parameters() if parameter.requires_grad]


def _moments(engine: Any, parameters: list[nn.Parameter]) -> int:
    """What the optimizer keeps, after a step on the meta device."""
    if not isinstance(engine, TrainingEngine) or not parameters:
        return 0
    optimizer = engine.make_optimizer(parameters)
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    return kept_of(optimizer)


def _bytes(tensors: Iterable[Tensor]) -> int:
    """Memory of tensors in this process, each counted once."""
    return sum(local(t).numel() * t.element_size() for t in {id(t): t for t in tensors}.values())


def human(number: float, unit: str = "") -> str:
    """`2.57 B` of parameters, `10.3 GB` of bytes (powers of 1000): three digits."""
    steps = ["", "k", "M", "G" if unit else "B"]
    power = min(int(math.log10(number)) // 3, len(steps) - 1) if number >= 1 else 0
    value = number / 1000**power
    digits = 0 if power == 0 else max(0, 2 - int(math.log10(value)))
    return f"{value:.{digits}f} {steps[power]}{unit}".rstrip()
