"""What each built object was built from, remembered beside the objects: they know nothing of it and are not kept
alive by it."""

from __future__ import annotations

import weakref
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from sgm_core.config.plan import Call, Plan, Value, rebuilt
from sgm_core.config.schema import is_plain


class Foreign(NamedTuple):
    """Stands in a recipe for an object that Python code gave and that no config describes."""

    type: str


_records: dict[int, tuple[weakref.ref[Any], Call]] = {}
"""By the object's identity: two that are equal may come from two configs."""


def remember(obj: Any, plan: Call) -> None:
    """Note that `obj` was built from `plan`. Of an object that several plans gave, the last one counts; one that cannot
    be referred to weakly (a tuple, slots without `__weakref__`) is not remembered."""
    recipe = _sealed_call(plan)
    with suppress(TypeError):
        # a method of the dict, since this module loses its names as the interpreter ends
        _records[id(obj)] = weakref.ref(obj, partial(_records.pop, id(obj))), recipe


def recipe_of(obj: Any) -> Call | None:
    """The plan that an object was built from, with `Foreign` for the objects in it that Python code gave."""
    known, recipe = _records.get(id(obj), (None, None))
    return recipe if known is not None and known() is obj else None


# --- sealing -------------------------------------------------------------------------------------------------------
# A recipe lives as long as its object. A reference from it to an object that Python gave, which may well know the
# object that it was given to, would keep both alive for ever.


def _sealed_call(plan: Call) -> Call:
    """The recipe. The parts in it were built before, and have theirs."""
    plan.recipe = plan.recipe or replace(plan, arguments={name: _sealed(part) for name, part in plan.arguments.items()})
    return plan.recipe


def _sealed(plan: Plan) -> Plan:
    """The plan, without objects."""
    match plan:
        case Value(value, name):
            if name or is_plain(value):
                return plan
            base = next((base for base in (int, float, str) if isinstance(value, base)), None)  # numpy's float64, say
            # an object with a recipe was built by an earlier call
            return recipe_of(value) or Value(Foreign(type(value).__name__) if base is None else base(value))
        case Call():
            return _sealed_call(plan)
    return rebuilt(plan, _sealed)
