"""A hint in source as the type that a config value is checked against: what `config.schema.from_hint` makes of the
hint's object, from the expression alone."""

from __future__ import annotations

import ast
import inspect
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

import annotated_types

from sgm_core.config.schema import (
    DTYPES,
    MAX_PARTS,
    QUALIFIERS,
    AnyType,
    Arguments,
    Bounded,
    Choice,
    Component,
    DictOf,
    Either,
    FixedWeights,
    ListOf,
    Opaque,
    PathType,
    Record,
    Scalar,
    TupleOf,
    Type,
    fixed,
    from_hint,
    unbuilt,
)
from sgm_core.kinds import KINDS
from sgm_plugins.tools.catalog.source.classes import (
    ENUMS,
    NAMED_TUPLE,
    ROLES,
    TYPED_DICT,
    call_names,
    dataclass_options,
    enum_members,
    kind_of,
    order_of,
)
from sgm_plugins.tools.catalog.source.names import (
    Definition,
    External,
    Meaning,
    MissingNameError,
    Module,
    ModuleName,
    UntoldError,
    lookup,
    member,
    module_of,
    resolve,
)

NULL = Scalar(type(None))

_ROLE_NAMES = {kind.role for kind in KINDS.values()}

_SCALARS = {"bool": bool, "int": int, "float": float, "str": str, "Text": str, "None": type(None)}
_SEQUENCES: dict[str, Callable[[list[Any]], Any]] = {
    "list": list,
    "List": list,
    "set": set,
    "Set": set,
    "frozenset": frozenset,
    "FrozenSet": frozenset,
    "Sequence": list,
    "Iterable": list,
    "Collection": list,
}
_MAPPINGS = {"dict", "Dict", "Mapping", "MutableMapping"}
_KEEPS_MEMBERS = {"unique", "verify", "global_enum", "final", "total_ordering", "dataclass", "runtime_checkable"}
_WRAPPERS = {*QUALIFIERS, "InitVar"}
_TYPING_CLASSES = {"Callable", "Type", "Hashable", "Sized", "Iterator", "Generator", "Awaitable", "Pattern", "Match"}


class StaticClass:
    """Stands for a class that is described and not imported, where a `Type` holds a class."""

    def __init__(self, meaning: Definition | External) -> None:
        self.meaning = meaning
        self.__name__ = meaning.name
        self.__annotations__: dict[str, Any] = {}

    @property
    def __signature__(self) -> inspect.Signature:
        """The names of the fields, by which `schema.describe` tells what a dataclass takes."""
        names = call_names(order_of(self.meaning)) if isinstance(self.meaning, Definition) else ()
        return inspect.Signature([inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names])

    @property
    def canonical(self) -> str:
        return self.meaning.canonical

    def __call__(self, **fields: Any) -> Any:
        raise TypeError(f"{self.canonical} is described from its source; it was not imported")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StaticClass) and other.canonical == self.canonical

    def __hash__(self) -> int:
        return hash(self.canonical)

    def __repr__(self) -> str:
        return f"<{self.canonical}>"


class Hint:
    """Reads the hints of one module. `notes` collects why a part of one is `AnyType`.

    `inside` are the names that are being expanded: one that occurs in itself is any data from there on.
    """

    def __init__(
        self,
        module: Module,
        variables: Mapping[str, ast.expr | None] | None = None,
        inside: frozenset[str] = frozenset(),
        around: Hint | None = None,
    ) -> None:
        self.module, self.variables, self.inside = module, variables or {}, inside
        self.notes: list[str] = around.notes if around else []
        self.parts: Iterator[int] = around.parts if around else itertools.count(1)

    def read(self, expression: ast.expr | None) -> Type:
        """The type of a whole hint; no hint is Any."""
        if expression is None:
            return AnyType()
        try:
            return self.convert(expression)
        except UntoldError as error:
            self.notes.append(str(error))
            return AnyType()

    def inner(self, expression: ast.expr) -> Type:
        """A part of a hint. A missing name makes the whole hint Any, as it does at run time."""
        try:
            return self.convert(expression)
        except MissingNameError:
            raise
        except UntoldError as error:
            self.notes.append(str(error))
            return AnyType()

    def convert(self, expression: ast.expr) -> Type:
        if next(self.parts) > MAX_PARTS:
            raise UntoldError(f"the hint has more than {MAX_PARTS} parts")
        match expression:
            case ast.Constant(value=None):
                return NULL
            case ast.Constant(value=str(text)):
                try:
                    return self.convert(ast.parse(text.strip(), mode="eval").body)
                except SyntaxError:
                    raise UntoldError(f"the hint '{text}' is not an expression") from None
            case ast.BinOp(op=ast.BitOr(), left=left, right=right):
                return union([self.inner(left), self.inner(right)])
            case ast.Subscript(value=value, slice=index):
                return self.generic(self.meaning(value), index)
            case ast.Name(id=name) if name in self.variables:
                bound = self.variables[name]
                others = {key: value for key, value in self.variables.items() if key != name} | {name: None}
                there = Hint(self.module, others, self.inside, self)  # a bound that names its own variable ends
                return AnyType() if bound is None else there.inner(bound)
            case ast.Name() | ast.Attribute():
                return self.plain(self.meaning(expression))
        raise UntoldError(f"the hint '{ast.unparse(expression)}' cannot be told")

    def meaning(self, reference: ast.expr) -> Meaning:
        """What a name in a hint stands for; a role is known even where it is imported for type checkers only."""
        try:
            return resolve(self.module, reference)
        except MissingNameError:
            try:
                if isinstance(reference, ast.Name) and f"{ROLES}:{reference.id}" in _ROLE_NAMES:
                    return member(ROLES, reference.id)
                return resolve(module_of(ROLES), reference)
            except UntoldError:
                raise MissingNameError(
                    f"'{ast.unparse(reference)}' is not there at run time (imported for type checkers only?)"
                ) from None

    def plain(self, meaning: Meaning) -> Type:
        """A hint without brackets."""
        match meaning:
            case External(module, name) if module in ("builtins", "typing", "collections.abc"):
                if name in _SCALARS:
                    return Scalar(_SCALARS[name])
                if name in ("Any", "object", "AnyStr"):
                    return AnyType()
                if name in _SEQUENCES:
                    return ListOf(AnyType(), _SEQUENCES[name])
                if name in ("tuple", "Tuple"):
                    return ListOf(AnyType(), tuple)
                if name in _MAPPINGS:
                    return DictOf(AnyType(), AnyType())
                if module == "typing" and name not in _TYPING_CLASSES:
                    raise UntoldError(f"the hint 'typing.{name}' cannot be told")
                return Opaque(StaticClass(meaning))
            case External("pathlib", "Path"):
                return PathType()
            case External("dataclasses", "InitVar"):
                return AnyType()
            case External("torch", "dtype"):
                return Choice(DTYPES, StaticClass(meaning))
            case External(module) if module.partition(".")[0] in sys.stdlib_module_names:
                return self.standard(meaning)
            case External():
                return Opaque(StaticClass(meaning))
            case Definition(node=ast.ClassDef()):
                return class_type(meaning)
            case Definition(module, name, ast.expr() as value):
                return self.alias(module, name, value)
        raise UntoldError(f"'{getattr(meaning, 'canonical', meaning.name)}' is no type")

    def standard(self, meaning: External) -> Type:
        """A class of the standard library, which may be an Enum or a dataclass."""
        try:
            found = lookup(module_of(meaning.module), meaning.name)
        except MissingNameError:
            raise UntoldError(f"'{meaning.canonical}' is made at run time") from None
        except UntoldError:  # of a module that has no source
            return Opaque(StaticClass(meaning))
        return self.plain(found) if isinstance(found, Definition) else Opaque(StaticClass(meaning))

    def alias(self, module: Module, name: str, value: ast.expr) -> Type:
        """A name that a hint was assigned to."""
        canonical = f"{module.name}:{name}"
        if canonical in self.inside:
            return AnyType()
        there = Hint(module, inside=self.inside | {canonical}, around=self)
        if not isinstance(value, ast.Call):
            return there.convert(value)
        made = there.meaning(value.func)
        canonical = "" if isinstance(made, ModuleName) else made.canonical
        if canonical in ("typing:NewType", "typing:TypeAliasType") and len(value.args) == 2:
            return there.inner(value.args[1])
        if canonical == "typing:TypeVar":
            bound = next((keyword.value for keyword in value.keywords if keyword.arg == "bound"), None)
            return AnyType() if bound is None else there.inner(bound)
        raise UntoldError(f"'{name}' of {module.name} is computed")

    def generic(self, base: Meaning, index: ast.expr) -> Type:
        """A hint with brackets."""
        args = list(index.elts) if isinstance(index, ast.Tuple) else [index]
        if isinstance(base, External) and base.module in ("builtins", "typing", "collections.abc", "dataclasses"):
            name = base.name
            if name == "Annotated":
                return self.annotated(args[0], args[1:])
            if name == "Literal":
                return self.literal(args)
            if name == "Optional":
                return union([self.inner(args[0]), NULL])
            if name == "Union":
                return union([self.inner(arg) for arg in args])
            if name in _WRAPPERS:
                return self.convert(args[0])
            if name in _SEQUENCES:
                return ListOf(self.inner(args[0]), _SEQUENCES[name])
            if name in ("tuple", "Tuple"):
                if len(args) == 2 and isinstance(args[1], ast.Constant) and args[1].value is Ellipsis:
                    return ListOf(self.inner(args[0]), tuple)
                return TupleOf(tuple(self.inner(arg) for arg in args))
            if name in _MAPPINGS and len(args) == 2:
                return DictOf(self.inner(args[0]), self.inner(args[1]))
        if not isinstance(base, ModuleName) and base.canonical == "sgm_core.config.lazy:Lazy":
            return unbuilt(self.inner(args[0]))
        if isinstance(base, Definition) and not isinstance(base.node, ast.ClassDef):
            raise UntoldError(f"the generic alias '{base.canonical}' cannot be told")
        return self.plain(base)

    def literal(self, args: list[ast.expr]) -> Type:
        values: list[Any] = []
        for arg in args:
            try:
                values.append(ast.literal_eval(arg))
            except ValueError:
                found = self.inner(arg)  # a Literal in a Literal
                if not isinstance(found, Choice):
                    raise UntoldError(f"'{ast.unparse(arg)}' in a Literal cannot be told") from None
                values += found.values
        return Choice(tuple(values))

    def annotated(self, hint: ast.expr, marks: list[ast.expr]) -> Type:
        known: list[Any] = []
        for mark in marks:
            try:
                found = self.mark(mark)
            except UntoldError as error:
                self.notes.append(f"the limit '{ast.unparse(mark)}' cannot be told: {error}")
                continue
            if isinstance(found, Arguments):
                return found
            if isinstance(found, FixedWeights):
                return fixed(self.inner(hint), found)
            if found is not None:
                known.append(found)
        type_ = self.inner(hint)
        if not known:
            return type_
        measured = from_hint(Annotated[(object, *known)])
        return Bounded(type_, measured.limits) if isinstance(measured, Bounded) else type_

    def mark(self, mark: ast.expr) -> Any:
        """`Ge(0)` as the object; None for a mark that says nothing to us.

        Raises:
            UntoldError: what it is cannot be told.
        """
        module: Module = self.module
        if isinstance(mark, (ast.Name, ast.Attribute)):  # a limit with a name: POSITIVE = Gt(0)
            found = resolve(module, mark)
            if not (isinstance(found, Definition) and isinstance(found.node, ast.expr)):
                return None
            module, mark = found.module, found.node
        if not isinstance(mark, ast.Call):
            return None
        made = resolve(module, mark.func)
        if isinstance(made, ModuleName):
            return None
        if made.canonical == "sgm_core.config.schema:Arguments":
            return _called(Arguments, mark)
        if made.canonical == "sgm_core.config.schema:FixedWeights":
            return _called(FixedWeights, mark)
        if isinstance(made, External) and made.module == "annotated_types" and hasattr(annotated_types, made.name):
            if made.name in ("Predicate", "Timezone", "Unit"):
                return None
            return _called(getattr(annotated_types, made.name), mark)
        if isinstance(made, Definition) and isinstance(made.node, ast.ClassDef):
            bases = {cls.canonical for cls in order_of(made).classes}
            if bases & {"annotated_types:GroupedMetadata", "annotated_types:BaseMetadata"}:
                raise UntoldError(f"{made.canonical} makes its limits when it runs")
        return None


def _called(target: Any, call: ast.Call) -> Any:
    """The mark itself: a class of our choice, called with literals."""
    try:
        args = [ast.literal_eval(arg) for arg in call.args]
        return target(*args, **{str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords})
    except (ValueError, TypeError):
        raise UntoldError("its arguments are not literals") from None


def union(options: list[Type]) -> Type:
    """As `typing` makes it: flat, each option once."""
    flat = [inner for option in options for inner in (option.options if isinstance(option, Either) else (option,))]
    unique = {repr(option): option for option in flat}
    return Either(tuple(unique.values())) if len(unique) > 1 else flat[0]


def class_type(cls: Definition) -> Type:
    """A class in a hint.

    Raises:
        UntoldError: it may fill a role through a base that cannot be followed.
    """
    order = order_of(cls)
    kinds = [kind_of(base) for base in order.classes]
    kind = next((kind for kind in kinds if kind is not None), None)
    if kind is not None:
        return Component(kind, None if kinds[0] is not None else StaticClass(cls))
    marks = [mark.func if isinstance(mark, ast.Call) else mark for mark in getattr(cls.node, "decorator_list", ())]
    is_enum = cls.canonical not in ENUMS and any(base.canonical in ENUMS for base in order.classes)
    for mark in marks if is_enum or cls.module.name in sys.stdlib_module_names else ():
        if resolve(cls.module, mark).name not in _KEEPS_MEMBERS:
            raise UntoldError(f"the decorator '{ast.unparse(mark)}' of {cls.canonical} may change it")
    if is_enum:
        names = enum_members(cls)
        return Choice(tuple(names), StaticClass(cls)) if names else Opaque(StaticClass(cls))
    records = (NAMED_TUPLE, TYPED_DICT)
    if any(dataclass_options(base) is not None or base.canonical in records for base in order.classes):
        return Record(StaticClass(cls))  # type: ignore[arg-type]
    if order.gap:
        raise UntoldError(order.gap)
    return Opaque(StaticClass(cls))
