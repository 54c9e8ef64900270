"""A config in full: every value, those of the defaults too, with where it came from, and what each part is."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from sgm_core.config.api import Config
from sgm_core.config.check import Checker
from sgm_core.config.plan import Call, Fields, Items, Plan, Value, rebuilt
from sgm_core.config.reader import source_reader
from sgm_core.config.schema import ABSENT, Parameter, article
from sgm_core.config.toplevel import check_tree
from sgm_core.config.tree import Node, Origin, join, key_of, split_path
from sgm_core.errors import SgmError
from sgm_core.registry import Entry, did_you_mean
from sgm_plugins.tools.catalog.source.hints import StaticClass
from sgm_plugins.tools.catalog.source.names import Definition
from sgm_plugins.tools.catalog.source.signature import UNTOLD
from sgm_plugins.tools.explain.defaults import default_plan


class Default(NamedTuple):
    """Where a value came from that no config gives: the constructor of what it belongs to."""

    of: str

    def __str__(self) -> str:
        return f"default of {self.of}"


class Object(NamedTuple):
    """A value that a config cannot write: the object itself is not shown, what it is called is."""

    name: str


@dataclass
class Part:
    """What is called with the values below it: a component, or (without an entry) a dataclass or a function."""

    name: str
    source: str
    """`file:line` of its definition, or its module where there is no Python source."""
    entry: Entry | None = None


@dataclass
class Explained:
    """One value of a config, or one container with those in it."""

    key: str | int
    path: str
    origin: Origin | Default
    """Of a component: where its name is written."""
    value: Any = None
    """Of a leaf: a plain value, a `Path` or an `Object`. Of a component: its name, as it is written."""
    shape: Literal["value", "list", "mapping", "part"] = "value"
    part: Part | None = None
    children: list[Explained] = field(default_factory=list)
    incomplete: bool = False
    """Of a component: a default is missing, since only an import tells it."""

    def walk(self) -> Iterator[Explained]:
        """This one and all below it, in order."""
        yield self
        for child in self.children:
            yield from child.walk()

    def at(self, path: str) -> Explained:
        """What stands at a path below this one, `sampler.guider` or `embedders[0].input_key`.

        Raises:
            SgmError: nothing does; with near names.
        """
        try:
            steps = split_path(path)
        except ValueError as error:
            raise SgmError(str(error)) from None
        found = self
        for step in steps:
            children = {child.key: child for child in found.children}
            key = step if found.shape != "list" else int(step) if step.isdecimal() else None
            if found.shape == "mapping" and key not in children:
                key = key_of({child.key: Node(None, _NOWHERE) for child in found.children}, step)
            if key not in children:
                raise SgmError(found._nothing(step, path))
            found = children[key]
        return found

    def _nothing(self, step: str, path: str) -> str:
        place = f"in '{self.path}'" if self.path else "at the top level"
        if self.shape == "value":
            return f"{path}: there is no '{step}' in '{self.path}', which is a plain value"
        if self.shape == "list":
            return f"{path}: there is no '{step}' {place}, a list of {len(self.children)}"
        known = [str(child.key) for child in self.children]
        return (
            f"{path}: there is no '{step}' {place}.{did_you_mean(step, known)}\nIt has: {', '.join(known) or 'nothing'}"
        )


_NOWHERE = Origin("")


def explain(config: Config, *, unbuilt: bool = False, imports: bool = True) -> Explained:
    """The whole tree of a config, after checking it. Nothing is built.

    Args:
        config: with or without mistakes.
        unbuilt: leave cached parts unimported, as training does. Of their defaults, those that are literals are shown.
        imports: whether components are imported. Without, defaults that are no literals are left out, and what has
            such a default is `incomplete`.

    Raises:
        ConfigError: everything that is wrong with the config.
    """
    if not imports:
        config.check()
        whole = check_tree(Checker(source_reader()), config.tree)
        assert isinstance(whole, Call)
        return _call(whole, config.tree, config.tree.origin, "", "")
    plan = config.checked[0]  # everything that is wrong, without the imports of cached parts
    return _call(plan if unbuilt else _complete(plan), config.tree, config.tree.origin, "", "")


def _complete(plan: Plan) -> Any:
    """The plan, with the imports of the parts that would be built later."""
    return rebuilt(plan.complete() if isinstance(plan, Call) and plan.complete else plan, _complete)


def _explain(plan: Plan, node: Node | None, default: Origin | Default, key: str | int, path: str) -> Explained:
    """One value. `node` is where the config has it, None for a default."""
    origin = default if node is None else node.origin
    match plan.written if isinstance(plan, Call) else plan:
        case Call() as call:
            return _call(call, node, origin, key, path)
        case Items(items, _):
            nodes = [None] * len(items) if node is None else node.value
            children = [
                _explain(item, child, origin, position, join(path, position))
                for position, (item, child) in enumerate(zip(items, nodes, strict=True))
            ]
            return Explained(key, path, origin, shape="list", children=children)
        case Fields(fields):
            children = [
                _explain(item, None if node is None else node.value[name], origin, name, join(path, str(name)))
                for name, item in fields.items()
            ]
            return Explained(key, path, origin, shape="mapping", children=children)
        case Value(value, name):
            return Explained(key, path, origin, name or _shown(value))


def _call(plan: Call, node: Node | None, origin: Origin | Default, key: str | int, path: str) -> Explained:
    """A component or dataclass: what the config gives, then the defaults, in the order of the signature."""
    given: dict[Any, Node] = node.value if node is not None and isinstance(node.value, dict) else {}
    children = []
    incomplete = False
    for name in [*plan.schema.parameters, *(name for name in plan.arguments if name not in plan.schema.parameters)]:
        child_path, default = join(path, name), Default(_name(plan) if path else "config")
        if name in plan.arguments:
            children.append(_explain(plan.arguments[name], given.get(name), origin, name, child_path))
        elif plan.schema.parameters[name].default is ABSENT:
            continue
        elif plan.schema.parameters[name].default is not UNTOLD:
            children.append(_default(plan.schema.parameters[name], default, child_path))
        else:
            incomplete = True
    if plan.entry is not None and "use" in given:
        origin = given["use"].origin
    part = Part(_name(plan), source_of(plan.target), plan.entry) if path else None
    return Explained(key, path, origin, plan.spelling or None, "part", part, children, incomplete)


def _default(parameter: Parameter, default: Default, path: str) -> Explained:
    plan = default_plan(parameter)
    if plan is None:
        return Explained(parameter.name, path, default, _shown(parameter.default))
    return _explain(plan, None, default, parameter.name, path)


def _name(plan: Call) -> str:
    if plan.entry is not None:
        return plan.entry.qualified
    if isinstance(plan.target, StaticClass):
        return plan.target.__name__
    return getattr(plan.target, "__qualname__", None) or str(plan.target)


def _shown(value: Any) -> Any:
    """A value as it is; of an object of Python what it is called, for its `repr` may be long, or differ each time."""
    if value is None or type(value) in (bool, int, float, str) or isinstance(value, Path):
        return value
    name = getattr(value, "__qualname__", None)
    if isinstance(name, str):
        return Object(f"{getattr(value, '__module__', '')}.{name}".lstrip("."))
    name = type(value).__name__
    return Object(f"{article(name)} {name} object")


@functools.cache
def source_of(target: Any) -> str:
    """`file:line` of a definition, or its module where there is no Python source."""
    if isinstance(target, StaticClass):
        found = target.meaning
        return f"{found.module.path}:{found.line}" if isinstance(found, Definition) else found.module
    try:
        return f"{inspect.getsourcefile(target)}:{inspect.getsourcelines(target)[1]}"
    except (OSError, TypeError):
        return f"{getattr(target, '__module__', None) or type(target).__module__}"
