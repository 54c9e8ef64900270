"""What each built object was built from, remembered beside the objects: they know nothing of it and are not kept
alive by it."""

from __future__ import annotations

import weakref
from dataclasses import replace
from operator import is_
from pathlib import Path
from typing import Any, NamedTuple

from sgm_core.config.plan import Call, Fields, Items, Plan, Value


class Foreign(NamedTuple):
    """Stands in a recipe for an object that Python code gave and that no config describes."""

    type: str


class _Record(weakref.ref[Any]):
    """The recipe of an object, found by the object's identity: two that are equal may come from two configs."""

    __slots__ = ("key", "recipe")
    key: int
    recipe: Call


class _Attached:
    """The recipe as an attribute, for an object that cannot be referred to weakly. It is not pickled or copied:
    like any other copy, that of such an object was not built."""

    def __init__(self, recipe: Call | None = None) -> None:
        self.recipe = recipe

    def __reduce__(self) -> tuple[type[_Attached], tuple[()]]:
        return _Attached, ()


_ATTRIBUTE = "_sgm_recipe"
_records: dict[int, _Record] = {}


def _forget(record: Any, records: dict[int, _Record] = _records) -> None:
    """The object is gone, and its identity may be used again. Called as the interpreter ends, too, when this module
    has lost its names."""
    key: int = record.key
    if records.get(key) is record:
        del records[key]


def remember(obj: Any, plan: Call) -> None:
    """Note that `obj` was built from `plan`. Of an object that several plans gave, the last one counts."""
    recipe = plan.recipe or _seal_call(plan)
    try:
        record = _Record(obj, _forget)
    except TypeError:
        attributes = getattr(obj, "__dict__", None)
        if isinstance(attributes, dict):
            attributes[_ATTRIBUTE] = _Attached(recipe)
        return
    record.key, record.recipe = id(obj), recipe
    _records[record.key] = record


def recipe_of(obj: Any) -> Call | None:
    """The plan that an object was built from, with `Foreign` for the objects in it that Python code gave."""
    record = _records.get(id(obj))
    if record is not None and record() is obj:
        return record.recipe
    attributes = getattr(obj, "__dict__", None)
    attached = attributes.get(_ATTRIBUTE) if isinstance(attributes, dict) else None
    return attached.recipe if isinstance(attached, _Attached) else None


def can_remember(obj: Any) -> bool:
    """Whether an object of this class has room for a recipe; a `NamedTuple` or a dataclass with slots has none."""
    return type(obj).__weakrefoffset__ != 0 or isinstance(getattr(obj, "__dict__", None), dict)


# --- sealing -------------------------------------------------------------------------------------------------------
# A recipe lives as long as its object. A reference from it to an object that Python gave, which may well know the
# object that it was given to, would keep both alive for ever.

_PLAIN = frozenset({bool, int, float, str, type(None)})


def _seal_call(plan: Call) -> Call:
    """The recipe; the plan itself where no object is in it. It is built after the parts in it, which have theirs."""
    for value in plan.arguments.values():
        if not (type(value) is Value and type(value.value) in _PLAIN) and _seal(value) is not value:
            break
    else:
        return plan
    arguments = {key: _seal(value) for key, value in plan.arguments.items()}
    plan.recipe = replace(plan, arguments=arguments)
    return plan.recipe


def _seal(plan: Plan) -> Plan:
    """The plan, without objects; itself where it has none."""
    if type(plan) is Value:
        return plan if type(plan.value) in _PLAIN else _seal_value(plan)
    if type(plan) is Call:
        return plan.recipe or _seal_call(plan)  # one that is built later may have none yet
    if type(plan) is Items:
        items = [_seal(item) for item in plan.items]
        return plan if all(map(is_, items, plan.items)) else Items(items, plan.make)
    assert type(plan) is Fields
    fields = {key: _seal(value) for key, value in plan.fields.items()}
    return plan if all(map(is_, fields.values(), plan.fields.values())) else Fields(fields)


def _seal_value(plan: Value) -> Plan:
    value = plan.value
    if isinstance(value, Path):
        return plan
    recipe = recipe_of(value)
    if recipe is not None:  # it was built by an earlier call
        return recipe
    base = next((base for base in (int, float, str) if isinstance(value, base)), None)  # numpy's float64, say
    return Value(Foreign(type(value).__name__) if base is None else base(value))
