"""What a name in a module stands for: its definition, through assignments, imports and re-exports."""

from __future__ import annotations

import ast
import builtins
import gc
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from sgm_plugins.tools.catalog.source.source import find_module

MAX_STEPS = 60
"""Re-exports followed before giving up: they go in a circle."""


KNOWN_BY_NAME = ("typing_extensions", "annotated_types", "torch")
"""Modules whose names are known as those of the standard library are: their own files are not read."""


class UntoldError(Exception):
    """What stands in the source cannot be told without running it; the message says why."""


class MissingNameError(UntoldError):
    """A name that nothing at run time would bind: it is not there, or imported for type checkers only."""


class BrokenSourceError(UntoldError):
    """A file that is not Python."""


class Definition(NamedTuple):
    """A class, a function, or an assigned expression, in the module that has it."""

    module: Module
    name: str
    node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.expr

    @property
    def canonical(self) -> str:
        """`module:name` of where it is defined."""
        return f"{self.module.name}:{self.name}"

    @property
    def line(self) -> int:
        """Where it begins in its file, with its decorators."""
        decorators: list[ast.expr] = getattr(self.node, "decorator_list", [])
        return min(node.lineno for node in (self.node, *decorators))


class External(NamedTuple):
    """Something without source that is known by its name: built-in, compiled, or of the standard library."""

    module: str
    name: str

    @property
    def canonical(self) -> str:
        return f"{self.module}:{self.name}"


class ModuleName(NamedTuple):
    """A module."""

    name: str


Meaning = Definition | External | ModuleName


class _Import(NamedTuple):
    module: str
    name: str | None  # None: the module itself


class Binding(NamedTuple):
    """One place that gives a name its meaning. `branch` identifies the conditions around it, () being none."""

    what: _Import | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.expr
    branch: tuple[tuple[int, str], ...] = ()


@dataclass
class Module:
    """A parsed file."""

    name: str
    path: Path
    tree: ast.Module
    is_package: bool = False
    stars: list[str] = field(default_factory=list)

    @cached_property
    def bindings(self) -> dict[str, list[Binding]]:
        """Name -> its bindings in the order written; what only type checkers see is left out."""
        found: dict[str, list[Binding]] = {}
        for name, binding in self.bindings_of(self.tree.body):
            found.setdefault(name, []).append(binding)
        return found

    @cached_property
    def declared(self) -> dict[str, Binding]:
        """What only type checkers see. In a module with a `__getattr__` it says what that gives: a lazy import."""
        blocks = (node for node in self.tree.body if isinstance(node, ast.If) and is_type_checking(node.test))
        return {name: binding for block in blocks for name, binding in self.bindings_of(block.body)}

    def bindings_of(
        self, body: Iterable[ast.stmt], branch: tuple[tuple[int, str], ...] = ()
    ) -> Iterator[tuple[str, Binding]]:
        for node in body:
            match node:
                case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    yield name, Binding(node, branch)
                case ast.Import():
                    for alias in node.names:
                        name = alias.asname or alias.name.partition(".")[0]
                        yield name, Binding(_Import(alias.name if alias.asname else name, None), branch)
                case ast.ImportFrom():
                    source = self.absolute(node)
                    for alias in node.names:
                        if alias.name == "*":
                            self.stars.append(source)
                        else:
                            yield alias.asname or alias.name, Binding(_Import(source, alias.name), branch)
                case ast.Assign(targets=targets, value=value):
                    for target in targets:
                        if isinstance(target, ast.Name):
                            yield target.id, Binding(value, branch)
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                    yield name, Binding(value, branch)
                case ast.If():
                    for side, statements in _sides(node):
                        yield from self.bindings_of(statements, (*branch, *side))
                case ast.Try():
                    here = id(node)
                    yield from self.bindings_of([*node.body, *node.orelse], (*branch, (here, "try")))
                    for handler in node.handlers:
                        yield from self.bindings_of(handler.body, (*branch, (here, "except")))
                    yield from self.bindings_of(node.finalbody, branch)
                case ast.With():
                    yield from self.bindings_of(node.body, branch)
                case _ if type(node).__name__ == "TypeAlias":  # `type X = ...` of Python 3.12
                    yield node.name.id, Binding(node.value, branch)  # type: ignore[attr-defined]

    def absolute(self, node: ast.ImportFrom) -> str:
        """The module that a `from` import names."""
        if not node.level:
            return node.module or ""
        parts = self.name.split(".")
        parts = parts[: len(parts) - node.level + self.is_package]
        return ".".join([*parts, *([node.module] if node.module else [])])


def _sides(node: ast.If) -> list[tuple[tuple[tuple[int, str], ...], list[ast.stmt]]]:
    """The branches of an `if` that may run, each with the condition it adds."""
    if is_type_checking(node.test):
        return [((), node.orelse)]
    known = _version_test(node.test)
    if known is not None:
        return [((), node.body if known else node.orelse)]
    here = id(node)
    return [(((here, "if"),), node.body), (((here, "else"),), node.orelse)]


def is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING", "t.TYPE_CHECKING")


def _version_test(test: ast.expr) -> bool | None:
    """The value of `sys.version_info >= (3, 11)` and the like; None for any other test."""
    match test:
        case ast.Compare(left=left, ops=[operator], comparators=[right]) if ast.unparse(left) == "sys.version_info":
            try:
                wanted = tuple(ast.literal_eval(right))
            except (ValueError, TypeError):
                return None
            match operator:
                case ast.GtE():
                    return sys.version_info >= wanted
                case ast.Gt():
                    return sys.version_info > wanted
                case ast.Lt():
                    return sys.version_info < wanted
                case ast.LtE():
                    return sys.version_info <= wanted
    return None


# --- reading -------------------------------------------------------------------------------------------------------

_modules: dict[str, tuple[Path, int, Module]] = {}


def parse_file(name: str, path: Path, *, is_package: bool = False) -> Module:
    """A file as a module; parsed again only when it has changed.

    Raises:
        BrokenSourceError: not readable, not Python.
    """
    try:
        changed = path.stat().st_mtime_ns
        known = _modules.get(name)
        if known is not None and known[:2] == (path, changed):
            return known[2]
        module = Module(name, path, ast.parse(path.read_bytes(), str(path)), is_package)
    except SyntaxError as error:
        raise BrokenSourceError(f"{path}:{error.lineno or 1}: SyntaxError: {error.msg}") from None
    except (OSError, ValueError, RecursionError) as error:  # ValueError: null bytes
        raise BrokenSourceError(f"{path} cannot be read: {type(error).__name__}: {error}") from None
    _modules[name] = (path, changed, module)
    if "torch" not in sys.modules:  # else a model that is garbage by now would stay for good
        gc.freeze()  # the trees stay: the collector need not walk them, neither now nor when the process ends
    return module


def module_of(name: str) -> Module:
    """The module of that name.

    Raises:
        UntoldError: there is none, or no source of it.
    """
    found = find_module(name)
    if found is None:
        raise UntoldError(f"there is no module '{name}' on sys.path")
    if found.path is None:
        raise UntoldError(f"the module '{name}' has no Python source")
    return parse_file(name, found.path, is_package=bool(found.folders))


# --- meanings ------------------------------------------------------------------------------------------------------


def lookup(module: Module, name: str, steps: int = 0) -> Meaning:
    """What a name means in a module, through assignments of other names, imports and `import *`.

    Raises:
        MissingNameError: nothing binds it.
        UntoldError: it depends on a condition, or on what has no source.
    """
    if steps > MAX_STEPS:
        raise UntoldError(f"'{name}' is imported in a circle")
    bindings = module.bindings.get(name)
    if bindings:
        return _meaning(module, name, _chosen(module, name, bindings), steps + 1)
    for star in reversed(module.stars):
        try:
            exported = module_of(star)
        except BrokenSourceError:
            raise
        except UntoldError:
            continue
        if _exports(exported, name):
            try:
                return member(star, name, steps + 1) if _known(star) else lookup(exported, name, steps + 1)
            except MissingNameError:
                continue
    if hasattr(builtins, name):
        return External("builtins", name)
    if "__getattr__" in module.bindings:
        raise UntoldError(f"'{name}' of {module.name} is made when it is asked for")
    raise MissingNameError(f"'{name}' is not bound in {module.name} at run time")


def _exports(module: Module, name: str) -> bool:
    listed = module.bindings.get("__all__")
    if _known(module.name) and not listed and name not in module.bindings:
        return False
    if listed and isinstance(listed[-1].what, (ast.List, ast.Tuple)):
        return any(isinstance(item, ast.Constant) and item.value == name for item in listed[-1].what.elts)
    return not name.startswith("_")


def _chosen(module: Module, name: str, bindings: list[Binding]) -> Binding:
    """The binding that holds in the end.

    The last one, where no condition is around it or it is the only one. Of `try: import a` / `except: import b` it
    is the first whose module is there.
    """
    last = bindings[-1]
    if not last.branch or len(bindings) == 1:
        return last
    sides = {step[1] for binding in bindings for step in binding.branch[-1:]}
    if sides <= {"try", "except"} and len({binding.branch[-1][0] for binding in bindings if binding.branch}) == 1:
        for binding in bindings:
            if isinstance(binding.what, _Import) and find_module(binding.what.module) is not None:
                return binding
    raise UntoldError(f"'{name}' of {module.name} depends on a condition")


def _meaning(module: Module, name: str, binding: Binding, steps: int) -> Meaning:
    match binding.what:
        case _Import(source, None):
            return ModuleName(source)
        case _Import(source, str(attribute)) if source == module.name and find_module(f"{source}.{attribute}"):
            return ModuleName(f"{source}.{attribute}")  # a package that imports a part of itself
        case _Import(source, str(attribute)):
            return member(source, attribute, steps)
        case ast.Name() | ast.Attribute() as reference:
            try:
                return resolve(module, reference, steps)
            except MissingNameError as error:
                raise UntoldError(str(error)) from None
        case node:
            return Definition(module, name, node)  # type: ignore[arg-type]


def _known(source: str) -> bool:
    """Whether the names of a module are taken as they are, without reading its file."""
    return source in KNOWN_BY_NAME or source.partition(".")[0] in sys.stdlib_module_names


def member(source: str, name: str, steps: int = 0) -> Meaning:
    """`name` of the module `source`, or the module `source.name`.

    Raises:
        UntoldError: see `lookup`.
    """
    found = find_module(source)
    if found is None:
        raise UntoldError(f"there is no module '{source}' on sys.path")
    if _known(source):
        if found.folders and find_module(f"{source}.{name}") is not None:
            return ModuleName(f"{source}.{name}")
        return External("typing" if source == "typing_extensions" else source, name)
    if (source, name) == ("sgm_core", "register"):  # a method of an object, which cannot be followed
        return External(source, name)
    if found.path is not None:
        module = parse_file(source, found.path, is_package=bool(found.folders))
        if name not in module.bindings and "__getattr__" in module.bindings and name in module.declared:
            return _meaning(module, name, module.declared[name], steps + 1)
        if name in module.bindings or not found.folders or find_module(f"{source}.{name}") is None:
            return lookup(module, name, steps + 1)
    if found.folders and find_module(f"{source}.{name}") is not None:
        return ModuleName(f"{source}.{name}")
    if found.compiled:
        return External(source, name)
    raise MissingNameError(f"'{name}' is not bound in {source}")


def resolve(module: Module, reference: ast.expr, steps: int = 0) -> Meaning:
    """What a dotted name means in a module.

    Raises:
        UntoldError: see `lookup`; or it is not a dotted name of modules.
    """
    match reference:
        case ast.Name(id=name):
            return lookup(module, name, steps + 1)
        case ast.Attribute(value=value, attr=attribute):
            owner = resolve(module, value, steps + 1)
            if isinstance(owner, ModuleName):
                return member(owner.name, attribute, steps + 1)
            if isinstance(owner, Definition) and isinstance(owner.node, ast.ClassDef):
                return class_member(owner, attribute)
    raise UntoldError(f"'{ast.unparse(reference)}' is not a name that can be followed")


def class_member(owner: Definition, name: str) -> Definition:
    """A class or function written inside a class.

    Raises:
        UntoldError: there is none, or several under conditions.
    """
    assert isinstance(owner.node, ast.ClassDef)
    found = [binding for bound, binding in owner.module.bindings_of(owner.node.body) if bound == name]
    if not found or (len(found) > 1 and found[-1].branch):
        raise UntoldError(f"'{name}' of {owner.canonical} cannot be told")
    if isinstance(found[-1].what, _Import):
        raise UntoldError(f"'{name}' of {owner.canonical} is an import")
    return Definition(owner.module, f"{owner.name}.{name}", found[-1].what)


def definition_of(value: str) -> Meaning:
    """What an entry point's `module:attribute` stands for.

    Raises:
        UntoldError: see `lookup`.
    """
    module, _, attribute = value.partition(":")
    if not attribute:
        return ModuleName(module)
    first, *rest = attribute.split(".")
    meaning = member(module, first)
    for part in rest:
        if not (isinstance(meaning, Definition) and isinstance(meaning.node, ast.ClassDef)):
            raise UntoldError(f"'{part}' of {value} cannot be told")
        meaning = class_member(meaning, part)
    return meaning
