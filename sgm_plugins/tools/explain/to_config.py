"""An object back to the config that it was built from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from sgm_core.config.plan import Call, Fields, Items, Plan, Value, plain_plan, rebuilt
from sgm_core.config.recipes import Foreign, recipe_of
from sgm_core.config.schema import article
from sgm_core.config.tree import join
from sgm_core.errors import SgmError
from sgm_plugins.tools.explain.defaults import default_plan


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
        if not type(obj).__weakrefoffset__ and type(obj).__module__ != "builtins":
            message += (
                f", or they did and could not remember it, for it cannot be referred to weakly. Give {name} a slot "
                "'__weakref__' (a dataclass with slots: weakref_slot=True), or ask for the config of what holds it"
            )
        raise SgmError(message)
    objects = list(_objects(recipe, ""))
    if objects:
        raise SgmError("\n".join(objects))
    return plain_plan(_with_defaults(recipe) if defaults else recipe)


def _objects(plan: Plan, path: str) -> Iterator[str]:
    """What no config describes."""
    match plan:
        case Items(items, _):
            for position, item in enumerate(items):
                yield from _objects(item, join(path, position))
        case Fields(fields):
            for key, item in fields.items():
                yield from _objects(item, join(path, str(key)))
        case Call():
            for name, argument in plan.arguments.items():
                written = argument.written if isinstance(argument, Call) else argument
                yield from _objects(written, join(path, name))
        case Value(Foreign(name)):
            yield f"{path}: {article(name)} {name} object that Python code gave, and sgm.build did not build"


def _with_defaults(plan: Plan) -> Plan:
    """The plan, with what was left to the defaults of the constructors in it."""
    if isinstance(plan, Call):
        plan = plan.complete() if plan.complete else plan
        left = [p for name, p in plan.schema.parameters.items() if name not in plan.arguments and not p.required]
        defaults = {parameter.name: default_plan(parameter) for parameter in left}
        written = {name: default for name, default in defaults.items() if default is not None}
        plan = replace(plan, arguments={**plan.arguments, **written})
    return rebuilt(plan, _with_defaults)
