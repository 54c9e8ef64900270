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
    PathType,
    Record,
    Scalar,
    TupleOf,
    Type,
    is_object_of,
    options_of,
)
from sgm_core.config.tree import is_plain

_FORMS: dict[type, tuple[type, ...]] = {
    Arguments: (dict,),
    Component: (str, dict),
    DictOf: (dict,),
    ListOf: (list,),
    PathType: (str, Path),
    Record: (dict,),
    TupleOf: (list,),
}


def same_shape(value: Any, type_: Type) -> bool:
    """Whether a value could be meant for this option of a union."""
    return any(_fits(value, option) for option in options_of(type_))


def _fits(value: Any, option: Type) -> bool:
    match option:
        case AnyType():
            return True
        case Scalar(t):
            return isinstance(value, (int, float) if t is float else t) and isinstance(value, bool) == (t is bool)
        case Choice(values):
            return any(type(value) is type(choice) for choice in values)
    return isinstance(value, _FORMS.get(type(option), ())) if is_plain(value) else is_object_of(value, option)


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
