"""The examined side of `sgm doctor`: a process of its own that loads the components of one distribution.

What it finds goes to its original standard output, one JSON object per line; what a plugin writes there or to
standard error goes to standard error. `sgm_plugins/tools/doctor/examine.py` reads both.
"""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import json
import os
import re
import sys
import time
import traceback
import typing
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sgm_core import registry
from sgm_core.kinds import KINDS
from sgm_core.registry import BrokenComponentError, Entry, did_you_mean
from sgm_plugins.tools.doctor.declarations import (
    written_at,
    wrong_command,
    wrong_configs,
    wrong_family,
    wrong_hooks,
    wrong_section,
)

if TYPE_CHECKING:
    from sgm_core.config.schema import Parameter

BASE = ("torch", "lightning")
"""What every plugin may import at the framework's expense: neither its milliseconds nor its time limit pay for it."""


def main(file: str) -> None:
    """Examine the entries in a file, a JSON list of lists, and end the process."""
    rows = json.loads(Path(file).read_text(encoding="utf-8"))
    channel = Channel()
    base = BaseImports(channel)
    sys.meta_path.insert(0, base)
    sys.argv = ["sgm", "doctor"]
    for number, row in enumerate(rows):
        channel.send("start", number=number)
        channel.send("done", number=number, **examine(Entry(*row), base))
    os._exit(0)  # what a plugin left behind (threads, exit handlers) does not keep us


class Channel:
    """Lines to the parent, on a descriptor that a plugin does not know."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.descriptor = os.dup(1)
        os.dup2(2, 1)

    def send(self, event: str, **facts: Any) -> None:
        if os.getpid() != self.pid:  # a plugin forked, and its child came back from the import
            os._exit(0)
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (AttributeError, OSError, ValueError):  # a plugin replaced or closed it
                continue
        facts |= {"event": event, "written": os.fstat(2).st_size}
        os.write(self.descriptor, (json.dumps(facts) + "\n").encode())


class BaseImports:
    """A finder that stops the clock while torch or Lightning is imported, whoever is the first to ask for it."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.seconds = 0.0
        self._running = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in BASE or self._running:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def timed(module: ModuleType) -> None:
            self._running, start = True, time.perf_counter()
            self.channel.send("pause")
            try:
                execute(module)
            finally:
                self._running = False
                self.seconds += time.perf_counter() - start
                self.channel.send("resume")

        spec.loader.exec_module = timed  # type: ignore[method-assign]
        return spec


def examine(entry: Entry, base: BaseImports) -> dict[str, Any]:
    """What there is to say of one entry: `reason` is empty if it can be used."""
    start, waited = time.perf_counter(), base.seconds
    target, reason, extra = None, "", ""
    try:
        target = None if entry.kind == "configs" else registry.load(entry)
    except BaseException as error:  # SystemExit, KeyboardInterrupt: whatever an import can raise
        cause = error.__cause__ if isinstance(error, BrokenComponentError) and error.__cause__ else error
        reason = why(entry, cause)
        extra = needed_extra(entry, cause)
    milliseconds = round((time.perf_counter() - start - (base.seconds - waited)) * 1000, 1)
    problems: list[str] = []
    if not reason:
        try:
            reason = wrong_declaration(entry, target)
            problems = [] if reason else remarks(entry, target)
        except Exception as error:  # a class may answer questions about itself with code of its own
            reason = f"it cannot be inspected: {type(error).__name__}: {text_of(error)}{written_at(target)}"
    return {"reason": reason, "milliseconds": milliseconds, "problems": problems, "extra": extra}


def wrong_declaration(entry: Entry, target: Any) -> str:
    """Why what an entry stands for cannot be used, or nothing."""
    match entry.kind:
        case "plugins":
            return wrong_hooks(entry, target)
        case "commands":
            return wrong_command(entry, target)
        case "sections":
            return wrong_section(entry, target)
        case "configs":
            return wrong_configs(entry)
        case "families":
            return wrong_object(entry.kind, target) or wrong_family(target)
        case kind if kind in KINDS:
            return wrong_object(kind, target)
    return ""


def remarks(entry: Entry, target: Any) -> list[str]:
    """What does not keep it from being used."""
    return [*taken_name(entry), *contract_problems(entry.kind, target)] if entry.kind in KINDS else []


# --- why it does not load ------------------------------------------------------------------------------------------


def why(entry: Entry, error: BaseException) -> str:
    """One line: the error, where it was raised, and what to do."""
    text = text_of(error)
    if reads_metadata(error):
        return METADATA
    line = f"{type(error).__name__}: {text}" if text else type(error).__name__
    place = "" if isinstance(error, SyntaxError) else raised_at(error)  # which names the place itself
    return f"{line}{place}{remedy(entry, error)}"


METADATA = "not examined: the metadata of another distribution cannot be read"


def reads_metadata(error: BaseException) -> bool:
    """Whether the error comes from reading the metadata of what is installed, as the import of torch does."""
    frames = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    return importlib.metadata.__file__ in frames and not isinstance(error, importlib.metadata.PackageNotFoundError)


def text_of(error: BaseException) -> str:
    try:
        return " ".join(str(error).split())
    except Exception:  # its own __str__ is broken
        return ""


def raised_at(error: BaseException) -> str:
    """` (file.py:3)`, the last line of a plugin that was running."""
    own = (__file__, registry.__file__)
    place, trace = "", error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith("<frozen") and file not in own and "importlib" not in file:
            place = f" ({file}:{trace.tb_lineno})"
        trace = trace.tb_next
    return place


def remedy(entry: Entry, error: BaseException) -> str:
    """What would help, where that is known."""
    module, _, attribute = entry.value.partition(":")
    if isinstance(error, AttributeError) and module in sys.modules:
        return did_you_mean(attribute, (name for name in vars(sys.modules[module]) if name[0] != "_"))
    if isinstance(error, ModuleNotFoundError) and error.name:
        missing = error.name.partition(".")[0]
        for requirement in requirements(entry):
            name = re.match(r"[\w.-]+", requirement)
            if name and registry.normalize(name[0]) == registry.normalize(missing) and missing not in sys.modules:
                plain = re.fullmatch(r"[\w.\-\[\], <>=!~+*]+", requirement)  # nothing that a shell acts on in quotes
                command = f'pip install "{requirement}"' if plain else registry.install(name[0])
                return f". {entry.distribution} requires it: {command}"
    return registry.remedy(entry, error).replace("\n", ". ")


def needed_extra(entry: Entry, error: BaseException) -> str:
    """The extra that brings the module that is missing, where one says so."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        found = re.search(r'pip install "[^"\[]*\[([\w.-]+)\]"', registry.remedy(entry, error))
        return found[1] if found else ""
    return ""


def requirements(entry: Entry) -> list[str]:
    """What the distribution needs without any extra, markers left out."""
    lines = re.findall(r"^Requires-Dist: *(.*)$", registry.header(entry.path), re.MULTILINE)
    return [line.partition(";")[0].strip() for line in lines if "extra" not in line.partition(";")[2]]


# --- the contract --------------------------------------------------------------------------------------------------


def wrong_object(kind: str, target: Any) -> str:
    """Why the object cannot be a component of this kind, or nothing."""
    if not callable(target):
        what = "a module" if inspect.ismodule(target) else f"{target!r:.60}"
        return f"it is {what}; a class or a function is needed"
    from sgm_core.config.schema import POSITIONAL, article, signature

    base, noun = required_base(kind), KINDS[kind].noun
    if inspect.isclass(target):
        if base is not None and not issubclass(target, base):
            return f"{target.__name__} is no subclass of {spelled(base)}, as {article(noun)} {noun} must be"
        missing = sorted(getattr(target, "__abstractmethods__", ()))
        if missing:
            return f"{target.__name__} does not define {', '.join(missing)}"
    late = KINDS[kind].late
    for parameter in signature(target, late).parameters.values():
        if parameter.required and parameter.type == POSITIONAL:
            return (
                f"its parameter '{parameter.name}' is positional-only, so that no config can give it: "
                f"remove the '/' in its signature{written_at(target)}"
            )
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):  # written in C
        return ""
    if sum(p.kind in positional for p in parameters) < len(late) and not any(
        p.kind is p.VAR_POSITIONAL for p in parameters
    ):
        return f"it takes no '{late[0]}', which {article(noun)} {noun} is called with"
    return ""


def taken_name(entry: Entry) -> list[str]:
    """A remark where the bare name means a built-in component."""
    offered = [other for other in registry.index.entries(entry.kind) if other.name == entry.name and other.builtin]
    if entry.builtin or not offered:
        return []
    return [f"the name '{entry.name}' is a built-in's: a config has to write '{entry.qualified}'. Choose another name"]


def required_base(kind: str) -> type | None:
    """The class that components of a kind extend; none where any callable will do."""
    from torch import nn

    from sgm_core.config.schema import role_of

    role = role_of(kind)
    if not getattr(role, "_is_protocol", False):
        return typing.cast(type, role)
    return None if KINDS[kind].late else nn.Module  # what is a call and not late is trained, moved and saved


def spelled(base: type) -> str:
    """As an import would write it."""
    module = "torch.nn" if base.__module__.startswith("torch.nn.") else base.__module__
    return f"{module}.{base.__qualname__}"


def contract_problems(kind: str, target: Any) -> list[str]:
    """What a config's author will miss: hints, the open end of a signature, documentation."""
    from sgm_core.config.schema import POSITIONAL, Opaque, article, describe, signature
    from sgm_plugins.tools.widths.declared import tried

    problems = []
    schema = signature(target, KINDS[kind].late)
    try:
        written = inspect.signature(target).parameters
    except (TypeError, ValueError):  # written in C, there is nothing to read
        written = {}  # type: ignore[assignment]
    for name, parameter in schema.parameters.items():
        if name in written and written[name].annotation is inspect.Parameter.empty:
            problems.append(f"parameter '{name}' is not annotated, so that no config is checked against it")
        elif parameter.type == POSITIONAL:
            problems.append(f"parameter '{name}' is positional-only, so that no config can give it: remove the '/'")
        elif not parameter.required and (wanted := misfit(target, name, parameter)):
            problems.append(f"the default of '{name}' is {parameter.default!r:.60}, but its hint says {wanted}")
        elif parameter.required and isinstance(parameter.type, Opaque):
            problems.append(f"parameter '{name}' cannot come from a config: it takes {describe(parameter.type)}")
    if schema.open:
        problems.append("it takes **kwargs, so that a misspelt key is not found")
    if not (getattr(target, "__doc__", None) or "").strip():
        problems.append("it has no docstring")
    if not callable(getattr(target, "refuses", print)):  # by which classes once said what they do not take
        problems.append(
            f"{target.__qualname__} declares `refuses`, which is not read any more: raise ValueError in its "
            "constructor, and the message is shown with the line of the config"
        )
    if told := tried(kind, target):
        problems.append(told)
    base = required_base(kind)
    if not inspect.isclass(target) and base is not None:
        made = target.func if isinstance(target, functools.partial) else target
        call = made if inspect.isroutine(made) else type(made).__call__
        given = made if inspect.isclass(made) else typing.get_type_hints(call).get("return")
        if not (inspect.isclass(given) and issubclass(given, base)):
            problems.append(f"what it returns is not annotated as {article(base.__name__)} {spelled(base)}")
    return problems


def misfit(target: Any, name: str, parameter: Parameter) -> str:
    """What the hint of a parameter accepts, where its default is plain data that this leaves out."""
    from sgm_core.config.check import Checker
    from sgm_core.config.schema import describe, from_hint, is_plain, written_hints
    from sgm_core.config.tree import Origin, from_plain

    value = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
    if not is_plain(value):
        return ""
    type_ = from_hint(written_hints(target).get(name, Any))
    checker = Checker()
    checker.check(from_plain(value, Origin("default")), type_, "")
    return describe(type_) if checker.problems.found else ""
