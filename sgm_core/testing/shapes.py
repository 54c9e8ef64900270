"""What a component says of its shapes before it is built, against what it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from sgm_core.config.plan import Value
from sgm_core.config.shapes import said_by
from sgm_core.shapes import Shape, Takes, as_list
from sgm_core.testing.subject import Subject

ADVICE = (
    "let the static method `shapes` reckon as the call does, or leave it out: what a part gives is then not checked"
)


def shape_of(value: Any) -> Shape | None:
    """The shape of one sample of a batch entry; None for text and other lists."""
    return tuple(value.shape[1:]) if isinstance(value, Tensor) else None


def agree(said: Shape | None, real: Shape | None) -> bool:
    """Whether a real shape is what was said; None says nothing."""
    if said is None:
        return True
    fits = isinstance(said, tuple) and real is not None and len(said) == len(real)
    return fits and all(a in (None, b) for a, b in zip(said, real or (), strict=True))


def check_outputs(subject: Subject, component: Any, inputs: Sequence[Any], outputs: Sequence[Tensor]) -> None:
    """What `shapes` says of these inputs, and of inputs that it is not told, is true of the outputs."""
    promise = "its `shapes` says, from its arguments, the shapes that it gives"
    for told in ([shape_of(value) for value in inputs], [None] * len(inputs)):
        with subject.trying(promise, ADVICE):
            said = as_list(said_by(Value(component))(*told))
        if said is None:
            continue
        real = [tuple(output.shape[1:]) for output in outputs]
        kept = isinstance(said, list) and len(said) == len(real) and all(map(agree, said, real))
        subject.expect(kept, promise, f"it says {said} where it gives {real}, for entries of {told}", ADVICE)


def check_takes(subject: Subject, network: Any, arguments: Mapping[str, Any]) -> None:
    """What `shapes` says that a network takes is what it is called with here, and nothing else is taken."""
    promise = "its `shapes` says, from its arguments, the widths that it takes"
    with subject.trying(promise, ADVICE):
        said = dict(said_by(Value(network))() or {})
    for name, takes in said.items():
        value = arguments.get(name)
        width = None if value is None else value.shape[1] if name == "x" or value.ndim == 2 else value.shape[-1]
        if isinstance(value, Tensor) and value.ndim == 1:
            width = 1
        subject.expect(
            isinstance(takes, Takes) and takes.width == width,
            promise,
            f"it says {getattr(takes, 'width', takes)} of '{name}', and is called with width {width}",
            ADVICE,
        )


def check_entries(subject: Subject, data: Any, batch: Mapping[str, Any]) -> None:
    """What `shapes` says of a batch names all of its entries."""
    promise = "its `shapes` says, from its arguments, the entries of a batch and their shapes"
    with subject.trying(promise, ADVICE):
        said = said_by(Value(data))()
    if said is not None:
        real = {key: shape_of(value) for key, value in batch.items()}
        kept = isinstance(said, Mapping) and said.keys() == real.keys() and all(agree(said[k], real[k]) for k in said)
        subject.expect(kept, promise, f"it says {said} of {real}", ADVICE)
