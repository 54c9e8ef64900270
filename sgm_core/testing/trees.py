"""Tensors in containers: what a component is called with, and what it gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def map_tensors(fn: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """A copy of mappings, lists, tuples and dataclasses, with `fn` of every tensor; other values as they are."""
    if isinstance(tree, Tensor):
        return fn(tree)
    if isinstance(tree, Mapping):
        return {key: map_tensors(fn, value) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(map_tensors(fn, value) for value in tree))
    if isinstance(tree, (list, tuple)):
        return type(tree)(map_tensors(fn, value) for value in tree)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        fields = {field.name: getattr(tree, field.name) for field in dataclasses.fields(tree) if field.compare}
        return dataclasses.replace(tree, **map_tensors(fn, fields))
    return tree


def clone(tree: Any) -> Any:
    """A copy that shares no tensor and no container."""
    return map_tensors(lambda tensor: tensor.detach().clone(), tree)


def cast(tree: Any, dtype: torch.dtype) -> Any:
    """A copy with the floating-point tensors in this dtype."""
    return map_tensors(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor, tree)


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of everything that is no container."""
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        tree = {field.name: getattr(tree, field.name) for field in dataclasses.fields(tree) if field.compare}
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(tree, (list, tuple)):
        for i, value in enumerate(tree):
            yield from leaves(value, f"{path}[{i}]")
    else:
        yield path, tree


def tensors(tree: Any) -> list[Tensor]:
    """The tensors, in order."""
    return [value for _, value in leaves(tree) if isinstance(value, Tensor)]


def floats(tree: Any) -> list[Tensor]:
    """The floating-point tensors, in order."""
    return [tensor for tensor in tensors(tree) if tensor.is_floating_point()]


def is_finite(tree: Any) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in floats(tree))


def difference(a: Any, b: Any, *, tolerance: float = 0.0) -> str:
    """Where two trees differ, for a message; empty if they do not. The tolerance is relative to the largest value."""
    ours, theirs = dict(leaves(a)), dict(leaves(b))
    for path in [*ours, *(path for path in theirs if path not in ours)]:
        if path not in ours or path not in theirs:
            return f"'{path}' is there only {'before' if path in theirs else 'now'}"
        if not _alike(ours[path], theirs[path], tolerance):
            return f"'{path}' differs" if path else "the values differ"
    return ""


def _alike(a: Any, b: Any, tolerance: float) -> bool:
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        # what cannot be compared (a function, a module) counts as itself
        return type(a) is type(b) and (a is b or not isinstance(a, (str, int, float, bool, bytes)) or a == b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.is_floating_point():
        return torch.equal(a, b)
    scale = float(b.detach().nan_to_num(0.0, 0.0, 0.0).abs().max()) if b.numel() else 0.0
    return torch.allclose(a, b, rtol=0.0, atol=tolerance * scale, equal_nan=True)
