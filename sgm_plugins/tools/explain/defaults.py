"""A parameter's default as the plan that a config which wrote it out would have given."""

from __future__ import annotations

from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from sgm_core.config.build import build_plan
from sgm_core.config.check import Checker
from sgm_core.config.plan import Call, Plan, walk
from sgm_core.config.schema import Arguments, Choice, Parameter, Record, Type, is_object_of, options_of, signature
from sgm_core.config.tree import MISSING, Node, Origin, from_plain

_ORIGIN = Origin("default")
_CONTAINERS = (list, dict, tuple, set, frozenset)


def default_plan(parameter: Parameter) -> Plan | None:
    """The plan that gives the default of an optional parameter, or None where no config can write it."""
    value = parameter.default
    for option in options_of(parameter.type):
        if isinstance(option, Record) and value is option.cls:  # the factory of a field
            return Call(value, {}, _ORIGIN, "", schema=signature(value))
    return _plan(value, parameter.type)


def _plan(value: Any, type_: Type) -> Plan | None:
    for option in options_of(type_):
        match option:
            case Arguments(name, taken) if value is resolve_name(name):
                return Call(value, {}, _ORIGIN, "", late=True, schema=signature(value).without(taken))
            case Record(cls) if type(value) is cls:
                return _record(value)
            case Choice() if is_object_of(value, option):  # a member of an Enum, a dtype
                return Checker().check(Node(value, _ORIGIN), option, "")
    try:
        data = _data(value)
    except TypeError:
        return None
    checker = Checker()
    plan = checker.check(from_plain(data, _ORIGIN), type_, "")
    # a default need not fit its own hint: `x: int = None`, or a name that Python does not look up
    if checker.problems.found or any(isinstance(part, Call) for part in walk(plan)):
        return None
    again = build_plan(plan)
    return plan if again == value or (again != again and value != value) else None


def _record(value: Any) -> Call | None:
    """A dataclass object, field by field."""
    cls: Any = type(value)
    schema = signature(cls)
    arguments: dict[str, Plan] = {}
    for name, parameter in schema.parameters.items():
        plan = _plan(getattr(value, name, None), parameter.type)
        if plan is None:
            return None
        arguments[name] = plan
    return Call(cls, arguments, _ORIGIN, "", schema=schema)


def _data(value: Any) -> Any:
    """Plain data.

    Raises:
        TypeError: it is not.
    """
    if isinstance(value, dict):
        return {key: _data(item) for key, item in value.items()}
    if type(value) in _CONTAINERS:
        return [_data(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if type(value) not in (bool, int, float, str, type(None)) and not isinstance(value, Path):
        raise TypeError(type(value).__name__)
    if value == MISSING:
        raise TypeError("a text that stands for a missing value")
    return value
