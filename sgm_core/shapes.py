"""Shapes without tensors: what a component says, from its arguments alone, of what it takes and gives.

A class may have a static method `shapes`: its call, on shapes in place of tensors. With it, a config whose embedders do
not fit the network is refused before any weight is allocated. Shapes that are not declared are checked when it runs.

    class ClassEmbedder(nn.Module):
        def __init__(self, embed_dim: int, n_classes: int = 1000) -> None: ...

        @staticmethod
        def shapes(labels: Shape | None, *, embed_dim: int) -> Shape:
            return (embed_dim,)

Positional parameters are the shapes of the inputs; keyword-only ones are constructor parameters, with their values. A
part arrives as a function from its inputs' shapes to what it says, None where it says nothing. By kind:

| kind | `shapes(...)` gives |
|---|---|
| embedders | `shapes(*entries, ...)`: the shape of its output, a list of them for several, None if it is not known |
| first_stages | `shapes(image, ...)`: the shape of the latent, or None |
| encoders | `shapes(image, ...)`: the shape of what the regularizer is given, or None |
| regularizers | `shapes(z, ...)`: the shape of the latent, or None |
| networks | `shapes(...)`: a mapping from the arguments of its call (`x`, `context`, `y`, extras) to `Takes` |
| datamodules | `shapes(...)`: a mapping from all entries of a batch to their shapes, None for text |

It raises ValueError for inputs that it cannot take. It is not inherited: a subclass declares its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Shape = tuple[int | None, ...]
"""Of one sample, so without the batch: (d,) a vector, (tokens, d), (c, *grid). None is a length that is not known."""


class Takes(NamedTuple):
    """What a network takes as one argument of its call.

    Attributes:
        key: the parameter of its constructor that decides the width; empty where none does.
        width: channels of `x` (concatenated conditioning included), width of tokens or of a vector; None: takes none.
        needs: other keys, with values, that `key` needs to have its effect: {"num_classes": "sequential"}.
        owner: the component that has the key; who asks fills it in.
    """

    key: str
    width: int | None
    needs: Mapping[str, Any] = {}
    owner: Any = None


def declaration(target: Any) -> Callable[..., Any] | None:
    """The `shapes` of a component, or None."""
    return own_static(target, "shapes")


def own_static(target: Any, name: str) -> Callable[..., Any] | None:
    """A static method of this class itself, or None. That of a base class does not count: the call may be another."""
    found = vars(target).get(name) if inspect.isclass(target) else None
    return found.__func__ if isinstance(found, staticmethod) else None


def unknown(*inputs: Any) -> None:
    """What a part says that says nothing."""


def as_list(outputs: Shape | list[Shape] | None) -> list[Shape] | None:
    """An embedder's one output or several, as a list."""
    return [outputs] if isinstance(outputs, tuple) else outputs


def only_measured() -> bool:
    """Whether what is being built is only measured, on the meta device, where tensors have shapes and no values.

    A constructor then reads and downloads no weights: `sgm explain` says how large a model is before anyone has it.
    """
    import torch

    return torch.get_default_device().type == "meta"
