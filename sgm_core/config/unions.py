"""Which option of a union a value was meant for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sgm_core.config.schema import (
    AnyType,
    Arguments,
    Bounded,
    Choice,
    Component,
    DictOf,
    Either,
    ListOf,
    Opaque,
    PathType,
    Record,
    Scalar,
    TupleOf,
    Type,
    is_instance,
    role_of,
)
from sgm_core.config.tree import Node


def same_shape(node: Node, option: Type) -> bool:
    """Whether a value could be meant for this option of a union."""
    value = node.value
    match option:
        case Bounded(inner, _):
            return same_shape(node, inner)
        case Either(options):
            return any(same_shape(node, inner) for inner in options)
        case AnyType():
            return True
        case Scalar(t):
            return isinstance(value, (int, float) if t is float else t) and isinstance(value, bool) == (t is bool)
        case Choice(values):
            return any(type(value) is type(choice) for choice in values)
        case PathType():
            return isinstance(value, (str, Path))
        case ListOf():
            return isinstance(value, list)
        case TupleOf():
            return isinstance(value, list)
        case DictOf():
            return isinstance(value, dict)
        case Record(cls):
            return isinstance(value, dict) or (not is_plain(value) and is_instance(value, cls))
        case Arguments():
            return isinstance(value, dict) or callable(value)
        case Component(kind, of):
            return isinstance(value, (str, dict)) or (not is_plain(value) and is_instance(value, of or role_of(kind)))
        case Opaque(cls):
            return not is_plain(value) and is_instance(value, cls)


def rank(value: Any, option: Type) -> int:
    """In which order the options of a union are tried."""
    match option:
        case Bounded(inner, _):
            return rank(value, inner)
        case Component() | Choice():
            return 0  # a name that is known means the component, in `str | Sampler` too
        case Scalar(t):
            return 1 if type(value) is t else 2
        case Either() | AnyType():
            return 3
        case _:
            return 2


def is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, list, dict, Path))
