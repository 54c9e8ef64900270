"""What a component of a checked config says of its shapes, see `sgm_core.shapes`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sgm_core.config.plan import Call, Fields, Items, Plan, Value
from sgm_core.config.recipes import recipe_of
from sgm_core.shapes import Takes, declaration, unknown


def said_by(plan: Plan | None) -> Callable[..., Any]:
    """What a component says of its shapes, as a function of those of its inputs. The key of a network that is inside
    another one belongs to the inner one."""
    call = call_of(plan)
    shapes = None if call is None else declaration(call.target)
    if call is None or shapes is None:
        return unknown

    def say(*inputs: Any) -> Any:
        said = shapes(*inputs, **keywords(shapes, call))
        if not isinstance(said, Mapping):
            return said
        return {k: v._replace(owner=v.owner or call) if isinstance(v, Takes) else v for k, v in said.items()}

    return say


def keywords(say: Callable[..., Any], call: Call) -> dict[str, Any]:
    """The arguments of a constructor that a static method asks for, by name."""
    parameters = inspect.signature(say).parameters.values()
    return {p.name: _argument(call, p.name) for p in parameters if p.kind is p.KEYWORD_ONLY}


def call_of(plan: Plan | None) -> Call | None:
    """The plan of a component; also of one that Python code gave, if a config had built it."""
    if isinstance(plan, Value):
        plan = recipe_of(plan.value)
    written = plan.written if isinstance(plan, Call) else None
    return written if isinstance(written, Call) else None


def _argument(call: Call, name: str) -> Any:
    """An argument of the constructor as `shapes` is told it; parts are functions."""
    if name in call.arguments:
        return told(call.arguments[name])
    default = call.schema.parameters[name].default
    return unknown if callable(default) else default


def told(plan: Plan) -> Any:
    """A value as `shapes` is told it; of a part its own `shapes`."""
    match plan:
        case Value(value, name) if name or value is None or isinstance(value, (bool, int, float, str, Path)):
            return value
        case Items(items, make):
            return make([told(item) for item in items])
        case Fields(fields):
            return {key: told(value) for key, value in fields.items()}
        case _:
            return said_by(plan)
