"""A tree against a schema: a plan to build from, or every problem at once. Constructs nothing."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from sgm_core.config.lazy import Lazy
from sgm_core.config.plan import Call, Fields, Items, Plan, Value
from sgm_core.config.reader import Objects, Reader, source_reader
from sgm_core.config.schema import (
    LIMITS,
    AnyType,
    Arguments,
    Bounded,
    Choice,
    Component,
    DictOf,
    Either,
    FixedWeights,
    ListOf,
    PathType,
    Record,
    Scalar,
    Signature,
    TupleOf,
    Type,
    article,
    describe,
    is_object_of,
    is_plain,
    rank,
    same_shape,
)
from sgm_core.config.tree import INVALID, MISSING, Node, Problems, join, leaves
from sgm_core.config.wording import hint, shown
from sgm_core.kinds import KINDS
from sgm_core.registry import Entry, RegistryError, did_you_mean, index, nearest

CACHED = "cached"
"""The component that `cache: true` asks for: `{use: cached, ...}` around a part keeps its outputs on disk."""


@dataclass
class Checker:
    """One walk over a tree. `entries` are the components met; `reader` tells what each can be given; `root` is the
    whole config, if there is more than what is checked."""

    reader: Reader = field(default_factory=Objects)
    problems: Problems = field(default_factory=Problems)
    entries: list[Entry] = field(default_factory=list)
    root: Node | None = None

    def check(self, node: Node, type_: Type, path: str) -> Plan:
        """The plan for `node`; problems are collected (the plan is then not to be used)."""
        value = node.value
        if value is INVALID:
            return Value(None)
        if isinstance(value, str) and value == MISSING:
            return self._missing(node, type_, path)
        match type_:
            case Either(options):  # first, as the most frequent
                return self._either(node, options, type_, path)
            case AnyType() if isinstance(value, dict):  # each build gets containers of its own
                return Fields({key: self._child(child, type_, path, str(key)) for key, child in value.items()})
            case AnyType() if isinstance(value, list):
                return Items([self._child(child, type_, path, i) for i, child in enumerate(value)])
            case AnyType():
                return Value(value)
            case Scalar() | Choice() | PathType():
                return self._scalar(node, type_, path)
            case Bounded(inner, limits):
                return self._bounded(node, inner, limits, path)
            case Component():
                return self.component(node, type_, path)
            case ListOf(item, make) if isinstance(value, list):
                return Items([self._child(child, item, path, i) for i, child in enumerate(value)], make)
            case TupleOf(items) if isinstance(value, list) and len(value) == len(items):
                pairs = enumerate(zip(value, items, strict=True))
                return Items([self._child(child, item, path, i) for i, (child, item) in pairs], tuple)
            case DictOf(key, item) if isinstance(value, dict):
                return self._dict(node, key, item, path)
            case Record(cls) if isinstance(value, dict):
                return self.call(node, value, cls, self.reader.signature(cls), path, what="" if path else "a config")
            case Arguments(target, taken) if isinstance(value, dict):
                function = self.reader.named(target)
                schema = self.reader.signature(function).without(taken)
                return self.call(node, value, function, schema, path, what="", late=True)
        return self._instance(node, type_, path)

    def _child(self, node: Node, type_: Type, path: str, key: str | int) -> Plan:
        """`check` for a value of a container; the short way for what fits, which is most of a config."""
        value = node.value
        if type(type_) is Scalar and type(value) is type_.type and value != MISSING:
            return Value(value)
        return self.check(node, type_, join(path, key))

    def _wrong(self, node: Node, type_: Type, path: str) -> Plan:
        self.problems.add(node.origin, path, f"expected {describe(type_)}, got {shown(node)}{hint(node, type_)}")
        return Value(None)

    def _missing(self, node: Node, type_: Type, path: str) -> Plan:
        wanted = "" if isinstance(type_, AnyType) else f": {describe(type_)}"
        self.problems.add(node.origin, path, f"this value must be given{wanted}. On the command line: {path}=VALUE")
        return Value(None)

    def _instance(self, node: Node, type_: Type, path: str) -> Plan:
        """An object that Python code put in the place of a mapping; nothing else fits."""
        fits = not is_plain(node.value) and is_object_of(node.value, type_)
        return Value(node.value) if fits else self._wrong(node, type_, path)

    def _scalar(self, node: Node, type_: Scalar | Choice | PathType, path: str) -> Plan:
        value = node.value
        match type_:
            case Scalar(t):
                if t is float and isinstance(value, int) and not isinstance(value, bool):
                    try:
                        return Value(float(value))
                    except OverflowError:
                        return self._wrong(node, type_, path)
                fits = type(value) is t or (isinstance(value, t) and not isinstance(value, bool))
            case Choice(values, of):
                given = is_object_of(value, type_)  # by Python code
                name = getattr(value, "name", str(value).removeprefix("torch.")) if given else value
                if of is not None and name in values:
                    return Value(getattr(of, "__members__", vars(sys.modules.get("torch", sys))).get(name), name)
                fits = given or any(type(value) is type(choice) and value == choice for choice in values)
            case PathType():
                fits = isinstance(value, (str, Path))
                if fits:
                    try:
                        return Value(Path(value).expanduser())
                    except RuntimeError:  # ~somebody whom this machine does not know
                        return Value(Path(value))
        return Value(value) if fits else self._wrong(node, type_, path)

    def _bounded(self, node: Node, inner: Type, limits: tuple[tuple[str, Any], ...], path: str) -> Plan:
        before = len(self.problems.found)
        plan = self.check(node, inner, path)
        if len(self.problems.found) == before and not all(_within(node.value, *limit) for limit in limits):
            return self._wrong(node, Bounded(inner, limits), path)
        return plan

    def _dict(self, node: Node, key_type: Type, value_type: Type, path: str) -> Plan:
        plan = Fields({})
        for key, child in node.value.items():
            if not (type(key_type) is Scalar and type(key) is key_type.type):
                found = self.check(Node(key, child.where), key_type, join(path, str(key)))
                plan.keys[key] = found.value if isinstance(found, Value) and found.name else key
            plan.fields[key] = self._child(child, value_type, path, str(key))
        return plan

    def _either(self, node: Node, options: tuple[Type, ...], type_: Type, path: str) -> Plan:
        """The option that fits, else the problems of the one that was most likely meant. An exact type goes first: 3 is
        an integer in `float | int` too. The order of a union means nothing, for `typing` does not keep it (`list[int |
        float]` may give back an earlier `list[float | int]`)."""
        value = node.value
        kind = type(value)
        if kind is not str and Scalar(kind) in options:  # a string could be a name or a choice as well
            return Value(value)
        likely = [option for option in options if same_shape(value, option)]
        if len(likely) == 1 and isinstance(value, (dict, list)):
            return self.check(node, likely[0], path)
        trials: list[tuple[Checker, Plan]] = []
        for option in sorted(likely, key=lambda option: rank(value, option)):
            trial = replace(self, problems=Problems(), entries=[])
            plan = trial.check(node, option, path)
            if not trial.problems.found:
                self.entries += trial.entries
                return plan
            trials.append((trial, plan))
        named = [trial for trial in trials if trial[0].entries]  # a component of this name exists
        unknown = not named and isinstance(value, str) and [type(option) for option in likely] == [Component]
        if not trials or not (named or unknown or isinstance(value, (dict, list))):
            return self._wrong(node, type_, path)
        found = min(named or trials, key=_misfit)[0].problems.found
        if unknown:  # it might be meant as another option
            others = Either(tuple(option for option in options if option not in likely))
            found = [found[0]._replace(message=f"{found[0].message}\nOr {describe(others)}{hint(node, others)}")]
        self.problems.found += found
        return Value(None)

    # --- components ------------------------------------------------------------------------------------------------

    def component(self, node: Node, type_: Component, path: str) -> Plan:
        """A component by bare name or `use:`."""
        if type_.lazy:
            return self._lazy(node, type_, path)
        kind = KINDS[type_.kind]
        if isinstance(node.value, dict):
            use, given = node.value.get("use"), {key: child for key, child in node.value.items() if key != "use"}
            if use is None:
                return self._no_use(node, type_, path)
        elif isinstance(node.value, str):
            use, given = node, {}
        else:
            return self._instance(node, type_, path)
        if not isinstance(use.value, str) or use.value == MISSING:
            return self.check(use, type_ if use.value == MISSING else Scalar(str), join(path, "use"))
        try:
            entry = index.find(kind.name, use.value)
            self.entries.append(entry)
            target = self.reader.target(entry)
        except RegistryError as error:
            self.problems.add(use.origin, path, str(error))
            return Value(None)
        what = f"{kind.noun} '{entry.name}'"
        if type_.of is not None and not self.reader.is_a(target, type_.of):
            wanted = type_.of.__name__
            self.problems.add(use.origin, path, f"{what} is not {article(wanted)} {wanted}, which is needed here")
            return Value(None)
        late = bool(kind.late)
        schema = self.reader.signature(target, kind.late)
        call = self.call(node, given, target, schema, path, what=what, late=late)
        call.entry, call.spelling, call.short = entry, use.value, use is node
        return call

    def _lazy(self, node: Node, type_: Component, path: str) -> Plan:
        """A part that is built later, if ever: checked from source, so that it is not even imported."""
        type_ = type_._replace(lazy=False)
        if isinstance(node.value, Lazy):
            return Value(node.value)
        readable = all(is_plain(leaf.value) for _, leaf in leaves(node))
        checker = replace(self, reader=source_reader(), entries=[]) if readable else self
        plan = checker.check(node, type_, path)
        if checker is not self:
            self.entries += checker.entries
        if isinstance(plan, Call):
            plan.late = plan.own_draws = True
            plan.complete = partial(_imported, node, type_, path, self.root) if readable else None
        return plan

    def _cached(self, node: Node, type_: Component, path: str) -> Plan:
        """What `cache: true` beside a part stands for: {use: cached, PART: it, dir: ${cache.dir}}."""
        try:
            entry = index.find(type_.kind, CACHED)
            target = self.reader.target(entry)
        except RegistryError as error:
            self.problems.add(node.origin, path, str(error))
            return Value(None)
        self.entries.append(entry)
        schema = self.reader.signature(target)
        part = next(iter(schema.parameters))
        arguments = {part: self._lazy(node, type_._replace(fixed=None), path)}
        section = self.root.value.get("cache") if self.root is not None else None
        folder = section.value.get("dir") if section is not None and isinstance(section.value, dict) else None
        if folder is not None and folder.value != MISSING and isinstance(folder.value, (str, Path)):  # else reported
            arguments["dir"] = self._scalar(folder, PathType(), "cache.dir")
        return Call(target, arguments, node.origin, path, entry=entry, schema=schema, spelling=CACHED, short_for=part)

    def _no_use(self, node: Node, type_: Component, path: str) -> Plan:
        """A mapping that does not say which component it is."""
        kind = KINDS[type_.kind]
        near = next((key for key in node.value if did_you_mean(str(key), ["use"])), None)
        message = f"which {kind.noun}? The key 'use' is missing" + (f"; is '{near}' meant to be it?" if near else ".")
        known = ", ".join(index.names(kind.name)) or "none"
        self.problems.add(node.origin, path, f"{message}\nKnown {kind.name}: {known}")
        return Value(None)

    def call(
        self,
        node: Node,
        given: dict[Any, Node],
        target: Any,
        schema: Signature,
        path: str,
        *,
        what: str,
        late: bool = False,
    ) -> Call:
        """The keys of a mapping against the parameters of `target`."""
        parameters = schema.parameters
        arguments = {
            name: self._fixed(given, name, parameter.type, path, parameter.type.fixed)
            if type(parameter.type) is Component and parameter.type.fixed
            else self._child(given[name], parameter.type, path, name)
            for name, parameter in parameters.items()
            if name in given
        }
        meant: set[str] = set()  # by misspelt keys: not missing as well
        if len(arguments) < len(given):
            for key, child in given.items():
                if key in arguments:
                    continue
                if schema.open and isinstance(key, str):
                    arguments[key] = self.check(child, AnyType(), join(path, key))
                else:
                    meant.add(self._unknown(key, child, given, schema, path, what))
        for name, parameter in parameters.items():
            if parameter.required and name not in given and name not in meant:
                message = f"the key '{name}' is missing: {f'{what} needs ' if what else ''}{describe(parameter.type)}"
                self.problems.add(node.origin, path, message)
        return Call(target, arguments, node.origin, path, late, schema=schema)

    def _fixed(self, given: dict[Any, Node], name: str, type_: Component, path: str, mark: FixedWeights) -> Plan:
        """The plan for a part that has its weights from the config alone, if no flag beside it says otherwise."""
        flags = {key for key, child in given.items() if child.value is True}
        if mark.cached in flags:
            return self._cached(given[name], type_, join(path, name))
        plan = self._child(given[name], type_, path, name)
        if isinstance(plan, Call):
            plan.own_draws = mark.unless not in flags
        return plan

    def _unknown(self, key: Any, child: Node, given: dict[Any, Node], schema: Signature, path: str, what: str) -> str:
        """Report a key; gives the one that was meant, if that can be told."""
        near = nearest(str(key), schema.parameters)
        meant = "" if near in given else near
        # a key that a base or an earlier file gives is what an override or a later file means to replace
        beside = near in given and given[near].where.source == child.where.source
        hint = f" Did you mean '{near}'{', which is given as well' if beside else ''}?" if near else ""
        accepted = ", ".join(schema.parameters) or "none"
        child_path = join(path, str(key))
        message = f"{what or repr(path)} has no '{key}'.{hint}\nAccepted keys: {accepted}"
        self.problems.add(child.where, child_path, message)
        if meant and isinstance(child.value, (dict, list)) and same_shape(child.value, schema.parameters[meant].type):
            self.check(child, schema.parameters[meant].type, child_path)  # for the problems further down
        return meant


def _imported(node: Node, type_: Component, path: str, root: Node | None) -> Call:
    """The plan to build from of a part that was checked from source. ConfigError if the two differ."""
    checker = Checker(root=root)
    plan = checker.check(node, type_, path)
    checker.problems.raise_if_any()
    assert isinstance(plan, Call)
    plan.own_draws = True
    return plan


def _misfit(trial: tuple[Checker, Plan]) -> tuple[int, int]:
    """How little an option of a union was meant: it knows few of the keys, it has many problems."""
    checker, plan = trial
    return -len(plan.arguments) if isinstance(plan, Call) else 0, len(checker.problems.found)


def _within(value: Any, name: str, limit: Any) -> bool:
    try:
        return bool(LIMITS[name][1](value, limit))
    except TypeError:  # the limit is of another option of a union: null, or a string among numbers
        return True
