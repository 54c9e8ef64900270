"""What a component declares as its shapes, against what `sgm_core.shapes` says a declaration is."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from sgm_core.kinds import KINDS
from sgm_core.registry import Entry
from sgm_core.shapes import Takes, own_static

SHAPE = "a tuple of lengths such as (77, 768), each an integer above 0 or None"


def wrong(kind: str, said: Any) -> str:
    """Why what `shapes` gave is no declaration of a component of this kind, or nothing."""
    if said is None:
        return ""
    if kind in ("networks", "datamodules"):
        if not isinstance(said, Mapping):
            return f"it gives {said!r:.60}; a mapping is needed"
        fits = _takes if kind == "networks" else _shape
        wanted = "Takes(key, width)" if kind == "networks" else SHAPE
        return next(
            (f"it gives {v!r:.60} for {k!r:.30}; {wanted} is needed" for k, v in said.items() if not fits(v)), ""
        )
    several = said if isinstance(said, list) and kind == "embedders" else [said]
    return next((f"it gives {shape!r:.60}; {SHAPE} is needed" for shape in several if not _shape(shape)), "")


def _length(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0)


def _shape(value: Any) -> bool:
    return value is None or (isinstance(value, tuple) and all(map(_length, value)))


def _takes(value: Any) -> bool:
    return value is None or callable(value) or (isinstance(value, Takes) and _length(value.width))


def way_out(entry: Entry, target: Any) -> str:
    """Who declared it and where, and what its user can do."""
    try:
        place = f", {inspect.getsourcefile(target)}:{inspect.getsourcelines(target)[1]}"
    except (OSError, TypeError):  # a class of a notebook
        place = ""
    out = "" if entry.builtin else f". Do without the plugin: --plugins -{entry.distribution}"
    return f" ({entry.provider}{place}){out}"


def tried(kind: str, target: Any) -> str:
    """Why the declaration of a class is wrong for its default arguments and inputs that are not known, or nothing."""
    from sgm_core.config.schema import signature

    found = vars(target).get("shapes") if inspect.isclass(target) else None
    shapes = own_static(target, "shapes")
    if shapes is None:
        return "" if found is None else "its `shapes` is no static method: write @staticmethod above it"
    schema = signature(target, KINDS[kind].late).parameters
    asked = inspect.signature(shapes).parameters.values()
    unknown = [p.name for p in asked if p.kind is p.KEYWORD_ONLY and p.name not in schema and p.default is p.empty]
    if unknown:
        return f"its `shapes` asks for '{unknown[0]}', which is no parameter of the constructor"
    given = {p.name: schema[p.name] for p in asked if p.kind is p.KEYWORD_ONLY and p.name in schema}
    if any(parameter.required or callable(parameter.default) for parameter in given.values()):
        return ""
    inputs = [None for p in asked if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty]
    try:
        said = shapes(*inputs, **{name: parameter.default for name, parameter in given.items()})
    except ValueError:  # it may refuse its defaults, as its constructor may
        return ""
    except Exception as error:  # a plugin's own code
        return f"its `shapes` fails: {type(error).__name__}: {error}"
    reason = wrong(kind, said)
    return f"its `shapes` is wrong: {reason}" if reason else ""
