"""What a plugin declares beside components (hooks, commands, sections, families, configs), against what each promises.

Each function gives one line that says what is wrong and where, or nothing.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from sgm_core.registry import Entry

MARK = "sgm_impl"
"""The attribute that `sgm_core.hookimpl` sets."""


def written_at(target: Any) -> str:
    """` (file.py:3)`, where a module, class or function is defined; nothing where that cannot be told."""
    try:
        file = inspect.getsourcefile(target)
        return f" ({file})" if inspect.ismodule(target) else f" ({file}:{inspect.getsourcelines(target)[1]})"
    except (OSError, TypeError):
        return ""


def wrong_hooks(entry: Entry, target: Any) -> str:
    """Of a plugin with hooks, as a session finds it."""
    from sgm_core.hooks.loading import implementations

    try:
        implementations(entry, target)
    except Exception as error:  # an object may answer questions about itself with code of its own
        reason = " ".join(str(error).split()).rstrip(".")
        marked = [value for value in _values(target) if hasattr(value, MARK)]
        meant = [each for each in marked if re.search(rf"\b{re.escape(each.__name__)}\b", reason)]
        there = target if isinstance(target, ModuleType) or inspect.isclass(target) else type(target)
        return reason + written_at((meant or [there])[0])
    return ""


def _values(target: Any) -> list[Any]:
    """The functions of a module, or of an object's class."""
    holder = target if isinstance(target, ModuleType) or inspect.isclass(target) else type(target)
    return [value for value in vars(holder).values() if inspect.isfunction(value)]


def wrong_command(entry: Entry, target: Any) -> str:
    """Of a sub-command: its name, and the two functions, which are called with one argument each."""
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", entry.name):
        return f"'{entry.name}' is not the name of a command: small letters, digits, '_' and '-'"
    for name, argument in {"add_arguments": "parser", "run": "options"}.items():
        function = getattr(target, name, None)
        if not callable(function):
            return f"it has no function {name}{written_at(target)}"
        try:
            inspect.signature(function).bind(argument)
        except TypeError:
            return f"its {name} cannot be called as {name}({argument}){written_at(function)}"
        except ValueError:  # written in C
            continue
    return ""


def wrong_section(entry: Entry, target: Any) -> str:
    """Of a section of configs: a dataclass that can be made from nothing, of what a config can hold."""
    from sgm_core.config.schema import Opaque, describe, options_of, signature
    from sgm_core.config.sections import Sections

    if not (inspect.isclass(target) and dataclasses.is_dataclass(target)):
        return f"it is {target!r:.60}; a dataclass is needed{written_at(target)}"
    place = written_at(target)
    own = signature(Sections).parameters
    if entry.name in own:
        return f"'{entry.name}' is a section of sgm-core itself, which is never this one: choose another name{place}"
    for name, parameter in signature(target).parameters.items():
        if parameter.required:
            return f"its field '{name}' has no default, but most configs do not have the section{place}"
        if all(isinstance(option, Opaque) for option in options_of(parameter.type)):
            return f"its field '{name}' cannot come from a config: it takes {describe(parameter.type)}{place}"
    resumable = getattr(target, "resumable", False)
    return "" if isinstance(resumable, bool) else f"its `resumable` is {resumable!r:.40}, not True or False{place}"


def wrong_family(target: Any) -> str:
    """Of a family of models: its attributes are of the types that `Family` declares, and its methods answer."""
    from sgm_core.checkpoints.family import Family, Form, Request

    family, place = target(), written_at(target)
    for name, problem in mistyped(Family, family):
        return f"its `{name}` is wrong: {problem}{place}"
    names = [form.name for form in family.forms]
    if len(set(names)) < len(names):
        return f"its forms are called {', '.join(names)}: name each differently{place}"
    asked: dict[str, tuple[Callable[[], Any], Callable[[Any], bool], str]] = {
        "recognises": (
            lambda: family.recognises({"nothing.weight": (1, 1)}),
            lambda answer: answer is None or isinstance(answer, Form),
            "a Form or None",
        ),
        "entries": (lambda: family.entries(Request(64, 64)), lambda answer: isinstance(answer, Mapping), "a mapping"),
        "away": (lambda: family.away(Request(64, 64)), lambda answer: isinstance(answer, Mapping), "a mapping"),
    }
    for method, (call, fits, wanted) in asked.items():
        place = written_at(getattr(target, method))
        try:
            answer = call()
        except Exception as error:  # a plugin's own code
            return f"its `{method}` fails: {type(error).__name__}: {error}{place}"
        if not fits(answer):
            return f"its `{method}` gives {answer!r:.60}; {wanted} is needed{place}"
    return ""


def mistyped(role: type, thing: Any) -> Iterable[tuple[str, str]]:
    """The annotated attributes of a role that an object has of another type, each with the reason."""
    from sgm_core.config.check import Checker
    from sgm_core.config.schema import from_hint
    from sgm_core.config.tree import Origin, from_plain

    for name, hint in typing.get_type_hints(role, include_extras=True).items():
        checker = Checker()
        checker.check(from_plain(as_plain(getattr(thing, name)), Origin(name)), from_hint(hint), name)
        for problem in checker.problems.found[:1]:
            yield problem.path or name, problem.message.partition("\n")[0]


def as_plain(value: Any) -> Any:
    """Named tuples and mappings as dicts, other sequences as lists, as a config has them."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {key: as_plain(item) for key, item in value.items()}
    return [as_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def wrong_configs(entry: Entry) -> str:
    """Of a package that ships configs: it is there, and has some."""
    top, *parts = entry.value.partition(":")[0].split(".")
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        spec = None
    folders = [Path(folder, *parts) for folder in (spec.submodule_search_locations or ())] if spec else []
    if not any(folder.is_dir() for folder in folders):
        return f"there is no package '{entry.value}'"
    if not any(file for folder in folders for file in folder.glob("*.yaml")):
        return f"the package '{entry.value}' has no *.yaml ({folders[0]})"
    return ""
