"""Configs drawn from the constructors of what is installed, ways to spoil them, and their YAML.

The hints are read here a second time, by other code than the checker's: what this draws as fitting must be taken.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import json
import math
import re
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Any, Literal, NamedTuple, Union

import annotated_types as at
import lightning.pytorch
from hypothesis import strategies as st
from support.installed import usable_names
from torch import nn

import sgm_core as sgm
from sgm_core.config.lazy import Lazy
from sgm_core.config.sections import Checkpointing
from sgm_core.kinds import KINDS

Steps = tuple[Any, ...]
Draw = st.DrawFn

# --- what fits -----------------------------------------------------------------------------------------------------

TEXTS = ["image", "", "a b", "yes", "1", "1e-3", "null", "~", "a: b", "# no comment", "läuft", "x.y:Z", "- dash"]
NUMBERS = [0.0, 1e-5, 0.5, 1.5, 1e20, -3.25, math.inf]


class NoConfigError(Exception):
    """Only Python code can give such a value."""


@functools.cache
def roles() -> dict[Any, str]:
    return {resolve_name(kind.role): kind.name for kind in KINDS.values()}


class Parameter(NamedTuple):
    hint: Any
    required: bool


@functools.cache
def parameters(target: Any, skipped: tuple[str, ...] = ()) -> dict[str, Parameter]:
    """What a class or function is called with."""
    if getattr(target, "__init__", None) is nn.Module.__init__:  # it takes anything, to refuse it
        return {}
    hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    return {
        name: Parameter(hints.get(name, Any), found.default is found.empty)
        for name, found in inspect.signature(target).parameters.items()
        if name not in skipped and found.kind not in (found.VAR_POSITIONAL, found.VAR_KEYWORD)
    }


@st.composite
def configs(draw: Draw, preferred: str = "") -> dict[str, Any]:
    """A whole config that fits; components of the name `preferred` are drawn more often than the others."""
    config: dict[str, Any] = {"model": component(draw, "engines", None, preferred)}
    if draw(st.booleans()):
        config["data"] = component(draw, "datamodules", None, preferred)
    if draw(st.booleans()):
        config["trainer"] = keywords(draw, trainer_parameters(), preferred)
    if draw(st.booleans()):
        config["checkpoint"] = keywords(draw, parameters(Checkpointing), preferred)
    if draw(st.booleans()):
        config["seed"] = draw(st.integers(0, 9))
        config["vars"] = {"mine": draw(st.sampled_from([1, "x", [None, {"y": 2.5}]]))}
    return config


def trainer_parameters() -> dict[str, Parameter]:
    return parameters(lightning.pytorch.Trainer, ("self", "default_root_dir", "plugins"))


def component(draw: Draw, kind: str, of: Any, preferred: str) -> Any:
    """One that fits, in the short form where it can be."""
    names = [name for name, target in targets(kind).items() if of is None or issubclass(target, of)]
    if not names:
        raise NoConfigError(kind)
    if _inside.count(kind) > 1:  # discretizations and guiders that hold others could go on without end
        names = [name for name in names if not holds_its_kind(kind, name)] or names
    name = preferred if preferred in names and draw(st.booleans()) else draw(st.sampled_from(names))
    _inside.append(kind)
    try:
        given = keywords(draw, parameters(targets(kind)[name], KINDS[kind].late), preferred)
    finally:
        _inside.pop()
    qualified = draw(st.sampled_from([True, *([False] * 9)])) and name != preferred and ":" not in name
    spelling = f"sgm-core:{name}" if qualified else name
    return spelling if not given and draw(st.booleans()) else {"use": spelling, **given}


_inside: list[str] = []
"""The kinds of the components around the one that is drawn."""


@functools.cache
def holds_its_kind(kind: str, name: str) -> bool:
    """Whether a component needs another one of its kind."""
    needed = parameters(targets(kind)[name], KINDS[kind].late).values()
    return any(roles().get(parameter.hint) == kind for parameter in needed if parameter.required)


def targets(kind: str) -> dict[str, Any]:
    return _targets(kind, tuple(usable_names(kind)))


@functools.cache
def _targets(kind: str, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: sgm.resolve(kind, name) for name in names}


def keywords(draw: Draw, taken: dict[str, Parameter], preferred: str) -> dict[str, Any]:
    """The required arguments, a few of the others, in any order."""
    optional = [name for name, parameter in taken.items() if not parameter.required]
    chosen = set(draw(st.lists(st.sampled_from(optional), max_size=4)) if optional else ())
    given = {}
    for name, parameter in taken.items():
        if parameter.required or name in chosen:
            try:
                given[name] = value(draw, parameter.hint, preferred)
            except NoConfigError:
                if parameter.required:
                    raise
    return given


def value(draw: Draw, hint: Any, preferred: str) -> Any:
    """A value that fits a hint.

    Raises:
        NoConfigError: none can be written.
    """
    if hint is Any or hint is object:
        return draw(st.sampled_from([1, "x", None, [1, "a"], {"b": {"c": 1.5}}]))
    if hint in (None, type(None)):
        return None
    if hint in PLAIN:
        return draw(PLAIN[hint])
    origin, args = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin is Annotated:
        return bounded(draw, args[0], args[1:], preferred)
    if origin is Literal:
        return draw(st.sampled_from(args))
    if origin in (Union, types.UnionType):
        first = draw(st.integers(0, len(args) - 1))
        for option in (*args[first:], *args[:first]):
            try:
                return value(draw, option, preferred)
            except NoConfigError:
                continue
        raise NoConfigError(str(hint))
    if origin is tuple and args and args[-1] is not ...:
        return [value(draw, arg, preferred) for arg in args]
    if origin in (list, tuple, set, typing.get_origin(typing.Sequence[int]), typing.get_origin(typing.Iterable[int])):
        return [value(draw, args[0] if args else Any, preferred) for _ in range(draw(st.integers(1, 2)))]
    if origin in (dict, typing.get_origin(typing.Mapping[int, int])):
        key, item = args or (str, Any)
        return {value(draw, key, preferred): value(draw, item, preferred)}
    if origin is Path:
        return draw(st.sampled_from(["here", "/a/b c", "~/x"]))
    if origin is Lazy:  # a config does not tell whether a part is built at once
        return value(draw, args[0], preferred)
    if origin in roles():
        return component(draw, roles()[origin], None, preferred)
    bases = [base for base in getattr(origin, "__mro__", ()) if base in roles()]
    if bases:
        return component(draw, roles()[bases[0]], origin, preferred)
    if dataclasses.is_dataclass(origin) and origin.__module__.startswith("sgm_"):
        return keywords(draw, parameters(origin), preferred)
    raise NoConfigError(str(hint))


PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: st.integers(-3, 300),
    float: st.sampled_from(NUMBERS) | st.integers(0, 3),
    str: st.sampled_from(TEXTS),
}


def bounded(draw: Draw, hint: Any, marks: tuple[Any, ...], preferred: str) -> Any:
    """A value of a hint within its limits."""
    limits: dict[str, Any] = {}
    for mark in marks:
        parts = list(mark) if isinstance(mark, at.GroupedMetadata) else [mark]
        limits |= {name: bound for part in parts for name, bound in vars_of(part).items() if bound is not None}
    if hint is int:
        low = limits.get("ge", limits.get("gt", -1) + 1)
        step = limits.get("multiple_of", 1)
        high = min(low + 40, limits.get("le", limits.get("lt", math.inf) - 1))
        return draw(st.integers(math.ceil(low / step), int(high // step))) * step
    if hint is float:
        low, high = limits.get("ge", limits.get("gt", -9.0)), limits.get("le", limits.get("lt", 9.0))
        share = draw(st.sampled_from([0.25, 0.5, 0.75]))
        return low + (high - low) * share
    for _ in range(20):
        found = value(draw, hint, preferred)
        if not isinstance(found, list) or limits.get("min_length", 0) <= len(found) <= limits.get("max_length", 9):
            return found
    raise NoConfigError(str(hint))


def vars_of(mark: Any) -> dict[str, Any]:
    names = ("ge", "gt", "le", "lt", "multiple_of", "min_length", "max_length")
    return {name: getattr(mark, name) for name in names if hasattr(mark, name)}


# --- what does not -------------------------------------------------------------------------------------------------


class Damage(NamedTuple):
    """One change of a config: where it is, and whether no signature can take it."""

    what: str
    steps: Steps
    certain: bool = False


ANY_VALUE: list[Any] = [
    None,
    True,
    0,
    1,
    -1,
    7,
    1.0,
    0.5,
    -0.5,
    1e30,
    math.nan,
    -math.inf,
    10**400,
    "",
    "x",
    "0.5",
    "12",
]
ANY_VALUE += ["edm", "adamw", "identity", "true", [], [1], ["a"], [0.1, 0.2], [[1]], {}, {"a": 1}, {"use": "edm"}]
ANY_VALUE += [{"use": "nope"}, {"use": 3}, {"uses": "cfg", "scale": 1}, {"use": "cfg", "scale": 2.5}, {1: 2}, {None: 1}]
ANY_VALUE += [{"use": "euler_edm", "discretization": "edm"}, "euler_edm", {"use": "sgm-core:edm"}, "nowhere:edm"]

KEYS: list[Any] = [
    "nope",
    "Use",
    "",
    "a b",
    "x.y",
    "os.system",
    "self",
    "params",
    "optimizer",
    "args",
    "kwargs",
    "größe",
]
KEYS += [1, True, None, 2.5]


def spoil(draw: Draw, config: dict[str, Any]) -> tuple[dict[str, Any], list[Damage]]:
    """A copy with up to three changes, none inside another."""
    config = copy.deepcopy(config)
    done: list[Damage] = []
    for _ in range(draw(st.integers(0, 3))):
        places = [steps for steps in paths(config) if not any(related(steps, damage.steps) for damage in done)]
        if not places:
            break
        steps = draw(st.sampled_from(places))
        damage = draw(st.sampled_from(CHANGES))(draw, config, steps)
        if damage is not None:
            done.append(damage)
    return config, done


def paths(tree: Any, steps: Steps = ()) -> Iterator[Steps]:
    """Every value below the top, a mapping or list before what is in it."""
    for key, child in items(tree):
        yield (*steps, key)
        yield from paths(child, (*steps, key))


def items(tree: Any) -> list[tuple[Any, Any]]:
    return list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)) if isinstance(tree, list) else []


def related(one: Steps, other: Steps) -> bool:
    """Whether a change at one place can hide the other: it lies inside, or beside the name of its component."""
    one, other = (steps[:-1] if steps[-1:] == ("use",) else steps for steps in (one, other))
    size = min(len(one), len(other))
    return one[:size] == other[:size]


def at_path(tree: Any, steps: Steps) -> Any:
    for step in steps:
        tree = tree[step]
    return tree


def other_value(draw: Draw, config: Any, steps: Steps) -> Damage | None:
    at_path(config, steps[:-1])[steps[-1]] = copy.deepcopy(draw(st.sampled_from(ANY_VALUE)))
    return Damage("value", steps)


def beyond(draw: Draw, config: Any, steps: Steps) -> Damage | None:
    """A number moved: out of its range, or into another type."""
    holder, old = at_path(config, steps[:-1]), at_path(config, steps)
    if isinstance(old, bool) or not isinstance(old, (int, float)):
        return None
    changes: list[Callable[[Any], Any]] = [lambda x: -x, lambda x: -1 - abs(x), lambda x: x * 1000, float, str, bool]
    holder[steps[-1]] = draw(st.sampled_from(changes))(old)
    return Damage("number", steps)


def drop(draw: Draw, config: Any, steps: Steps) -> Damage | None:
    holder = at_path(config, steps[:-1])
    del holder[steps[-1]]
    return Damage("dropped", steps)


def misspell(draw: Draw, config: Any, steps: Steps) -> Damage | None:
    """A key with one letter more; nothing takes such a key, but free mappings do."""
    holder, key = at_path(config, steps[:-1]), steps[-1]
    if not isinstance(holder, dict) or not isinstance(key, str) or is_free(steps) or steps[-2:-1] == ("weightings",):
        return None
    wrong = f"{key[:-1]}q{key[-1:]}"
    order = [(wrong if name == key else name, child) for name, child in holder.items()]
    holder.clear()
    holder.update(order)
    return Damage("misspelt", (*steps[:-1], wrong), certain=True)


def extra_key(draw: Draw, config: Any, steps: Steps) -> Damage | None:
    holder, key = at_path(config, steps), draw(st.sampled_from(KEYS))
    if not isinstance(holder, dict) or key in holder:
        return None
    holder[key] = draw(st.sampled_from([1, "x", None, {"use": "edm"}]))
    return Damage("extra", (*steps, key))


def other_name(draw: Draw, config: Any, steps: Steps) -> Damage | None:
    """The name of a component that there is not, or one of another kind."""
    holder, key = at_path(config, steps[:-1]), steps[-1]
    if key != "use" or is_free(steps):
        return None
    holder[key] = draw(
        st.sampled_from(["nope", "os.system", "subprocess:run", "", "unett", "sgm-core:nope", "../x.py"])
    )
    return Damage("name", steps, certain=True)


def bury(draw: Draw, config: Any, steps: Steps) -> Damage | None:
    """Deeper than any config is: a list in a list in a list."""
    buried: Any = 1
    for _ in range(draw(st.sampled_from([3, 3, 3, 120]))):
        buried = [buried]
    at_path(config, steps[:-1])[steps[-1]] = buried
    return Damage("buried", steps)


CHANGES = [other_value, other_value, beyond, beyond, drop, misspell, extra_key, other_name, bury]


def is_free(steps: Steps) -> bool:
    """Below these keys stands plain data that nobody looks into."""
    free = {"vars", "log_keys", "summarize_kwargs", "console_kwargs", "scheduling", "duration", "val_check_interval"}
    return bool(free & {*steps[:-1]})


# --- YAML ----------------------------------------------------------------------------------------------------------


class Text(NamedTuple):
    """A config file, and where in it each path stands: (line, column) of its key and of its value."""

    yaml: str
    places: dict[str, set[tuple[int, int]]]


def write(config: dict[str, Any], twice: Steps = ()) -> Text:
    """The YAML of a config in block style; the key at `twice` stands there two times."""
    lines: list[str] = []
    places: dict[str, set[tuple[int, int]]] = {"": {(1, 1)}}

    def note(path: str, column: int) -> None:
        places.setdefault(path, set()).add((len(lines) + 1, column + 1))

    def node(value: Any, start: str, indent: int, path: str, steps: Steps) -> None:
        """What follows `start` on its line."""
        if not value or not isinstance(value, (dict, list)):
            note(path, len(start) + 1)
            lines.append(f"{start} {scalar(value)}")
            return
        lines.append(start)
        note(path, indent)
        block(value, indent, path, steps)

    def block(value: Any, indent: int, path: str, steps: Steps) -> None:
        for key, child in items(value):
            here, below = (*steps, key), join(path, key, isinstance(value, list))
            for _ in range(2 if here == twice else 1):
                note(below, indent)
                start = " " * indent + ("-" if isinstance(value, list) else f"{scalar(key)}:")
                node(child, start, indent + 2, below, here)

    block(config, 0, "", ())
    return Text("\n".join(lines or ["{}"]) + "\n", places)


def join(path: str, key: Any, in_list: bool) -> str:
    if in_list:
        return f"{path}[{key}]"
    return f"{path}.{key}" if path else str(key)


def path_of(config: Any, steps: Steps) -> str:
    """`model.embedders[0]` for the steps of a config."""
    path = ""
    for step in steps:
        path = join(path, step, isinstance(config, list))
        config = config[step] if isinstance(config, list) or step in config else {}
    return path


def scalar(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    if isinstance(value, str) and re.fullmatch(r"[a-z]+(_[a-z]+)+", value):
        return value
    return json.dumps(value, ensure_ascii=False)


def as_json(tree: Any) -> Any:
    """What an editor sees of a config: in JSON, every key is a text."""
    if isinstance(tree, dict):
        return {key if isinstance(key, str) else scalar(key): as_json(child) for key, child in tree.items()}
    return [as_json(child) for child in tree] if isinstance(tree, list) else tree
