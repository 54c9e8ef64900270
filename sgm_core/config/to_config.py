"""An object back to the config that it was built from."""

from __future__ import annotations

from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from sgm_core.config.defaults import default_plan
from sgm_core.config.plan import Call, Fields, Items, Plan
from sgm_core.config.recipes import Foreign, can_remember, recipe_of
from sgm_core.config.schema import article, signature
from sgm_core.config.tree import join
from sgm_core.errors import SgmError
from sgm_plugins.tools.catalog.source.hints import StaticClass


def to_config(obj: Any, *, defaults: bool = False) -> Any:
    """The config of a part that `build`, `build_engine` or `Config.build` built, also of one inside another.

    `sgm.build(kind, sgm.to_config(obj))` builds an equal one. It is plain data, and the caller's own: a mapping with
    `use:`, or a bare name where that was given. A path is a text, `~` and `${...}` in it are replaced. What a late
    part makes (an optimizer, a trainer) has the config of that part.

    What became of the object after it was built is not told, and a copy (`copy.deepcopy`, pickle) was not built.

    Args:
        obj: the part.
        defaults: also what was left to the constructors' defaults, where a config can write it.

    Raises:
        SgmError: it was not built from a config, or holds objects that were not; the message names each.
    """
    recipe = recipe_of(obj)
    if recipe is None:
        name = type(obj).__name__
        message = f"{article(name)} {name} object has no config: sgm.build and the like did not build this very object"
        if not can_remember(obj) and type(obj).__module__ != "builtins":
            message += (
                f", or they did and could not remember it, for it can not be referred to weakly. Give {name} a slot "
                "'__weakref__' (a dataclass with slots: weakref_slot=True), or ask for the config of what holds it"
            )
        raise SgmError(message)
    objects: list[str] = []
    data = _data(recipe, "", defaults, objects)
    if objects:
        raise SgmError("\n".join(objects))
    return data


def plain_plan(plan: Plan) -> Any:
    """The config of what a plan would build; an object that Python code gave stands for itself."""
    return _data(plan, "", False, [])


def _data(plan: Plan, path: str, defaults: bool, objects: list[str]) -> Any:
    match plan:
        case Items(items, _):
            return [_data(item, join(path, position), defaults, objects) for position, item in enumerate(items)]
        case Fields(fields):
            return {key: _data(item, join(path, str(key)), defaults, objects) for key, item in fields.items()}
        case Call():
            return _call(plan, path, defaults, objects)
    if isinstance(plan.value, Foreign):
        name = plan.value.type
        objects.append(f"{path}: {article(name)} {name} object that Python code gave, and sgm.build did not build")
    return str(plan.value) if isinstance(plan.value, Path) else plan.value


def _call(plan: Call, path: str, defaults: bool, objects: list[str]) -> Any:
    arguments = dict(plan.arguments)
    if defaults:
        target, schema = plan.target, plan.schema
        if isinstance(target, StaticClass):  # of a part that was not built
            target = resolve_name(target.canonical)
            schema = signature(target)
        for name, parameter in schema.parameters.items():
            if name not in arguments and not parameter.required:
                default = default_plan(target, parameter)
                if default is not None:
                    arguments[name] = default
    data = {name: _data(argument, join(path, name), defaults, objects) for name, argument in arguments.items()}
    if plan.entry is None:
        return data
    return plan.spelling if plan.short and not data else {"use": plan.spelling, **data}
