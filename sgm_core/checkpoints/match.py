"""Which weight of a model each key of a file is for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, TypeGuard

from torch import nn

from sgm_core.checkpoints.files import Checkpoint, shapes_of
from sgm_core.checkpoints.fit import compare
from sgm_core.checkpoints.layouts import AVERAGE, SHADOW, harmless
from sgm_core.checkpoints.recognise import own_names
from sgm_core.roles import Adapter, Average


class Trainable(Protocol):
    """See `sgm_core.training.base.TrainingEngine`. Any other LightningModule has no average and no adapter."""

    model_ema: Average | None
    adapter: Adapter | None
    first_stage_autocast: bool

    def trained_parameters(self) -> dict[str, nn.Parameter]: ...

    def averaged_parameters(self) -> dict[str, nn.Parameter]: ...


def is_trainable(model: nn.Module) -> TypeGuard[Trainable]:
    """Not by `isinstance`: from Python 3.12 on that does not see submodules, and the average is one."""
    return all(hasattr(model, name) for name in (*Trainable.__annotations__, "trained_parameters"))


def match(engine: nn.Module, checkpoint: Checkpoint, take_average: bool = False) -> tuple[dict[str, str], list[str]]:
    """The key in the file of each key of the engine, and notes on what is no error.

    The file is in our layout, or in a form of an installed family that only has other names. A module may list
    `ignored_keys`, entries of files that are no weights, and `computed_keys`, buffers that its constructor computes: a
    file need not have them, and values of lower precision are ignored. A module with `keys_optional` needs none.

    The average is optional on both sides. A model with one takes it from the file, or starts it from the file's
    weights. A model without one takes the live weights. A model with an adapter takes a file without the adapter as
    its base: averaged weights if the file has them.

    Args:
        take_average: a model without an average takes averaged weights, if the file has them.

    Raises:
        CheckpointError: keys, shapes or kinds of number differ: see `compare`.
    """
    own, weights = engine.state_dict(), checkpoint.weights
    names = {name: key for key, name in own_names(shapes_of(weights), own).items()}
    notes: list[str] = []
    averaged = {name for name in names if name.startswith(AVERAGE)}
    keeps_average = is_trainable(engine) and engine.model_ema is not None
    # all that is trained, where an adapter is
    adapter = set(engine.trained_parameters()) if is_trainable(engine) and engine.adapter else set()
    if adapter and adapter.isdisjoint(names):  # its average is that of the adapter, which starts afresh
        own = {name: value for name, value in own.items() if name not in adapter and not name.startswith(AVERAGE)}
        keeps_average, take_average = False, True
    if not keeps_average and take_average:
        shadows = [name for name in averaged if name.startswith(SHADOW)]
        names.update({name.removeprefix(SHADOW): names[name] for name in shadows})
        notes += ["it has averaged weights, and these are taken"] if shadows else []
    if keeps_average and not averaged:
        own = {name: value for name, value in own.items() if not name.startswith(AVERAGE)}
        notes.append("it has no averaged weights (EMA): the average starts from its weights")
    elif keeps_average and not any(names[name].startswith(SHADOW) for name in averaged):
        # generative-models averages the network alone
        own = {name: value for name, value in own.items() if not name.startswith(SHADOW) or name in names}
    if not keeps_average:
        names = {name: key for name, key in names.items() if name not in averaged}
    passed_over = set(_said(engine, "ignored_keys"))
    for name in _said(engine, "computed_keys"):
        if name in own and (name not in names or weights[names[name]].itemsize < own[name].itemsize):
            passed_over.add(name)
            del own[name]
    names = {n: key for n, key in names.items() if n in own or not (n in passed_over or harmless(n))}
    parts = [name for name, part in engine.named_modules() if getattr(part, "keys_optional", False)]
    optional = tuple(f"{start}{name}." for name in parts for start in ("", SHADOW))
    compare(
        checkpoint.path,
        {name: value for name, value in own.items() if not name.startswith(optional)},
        {name: weights[key] for name, key in names.items() if not name.startswith(optional)},
    )
    return names, notes


def _said(engine: nn.Module, attribute: str) -> Iterable[str]:
    """The keys that modules list in a class attribute, from the engine on."""
    for path, module in engine.named_modules():
        keys: Any = getattr(module, attribute, ())
        yield from (f"{path}.{key}" if path else key for key in keys)
