"""The parameters of a class or function in source."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from sgm_core.config.schema import ABSENT, POSITIONAL, AnyType, Either, Scalar, Type, options_of
from sgm_plugins.tools.catalog.source.classes import TYPED_DICT, Class, Order, dataclass_options, order_of
from sgm_plugins.tools.catalog.source.hints import Hint
from sgm_plugins.tools.catalog.source.names import (
    Binding,
    Definition,
    External,
    Module,
    ModuleName,
    UntoldError,
    resolve,
)

Function = ast.FunctionDef | ast.AsyncFunctionDef

UNTOLD: Any = object()
"""The value of a default that is not a literal."""


class StaticParameter(NamedTuple):
    """A parameter. `default` is its source text, None where there is none; `note` says what could not be told."""

    name: str
    type: Type
    default: str | None = None
    value: Any = UNTOLD
    note: str = ""

    @property
    def required(self) -> bool:
        return self.default is None


class StaticSignature(NamedTuple):
    """What a component can be given. `open`: keywords beyond these, or, with a `note`, perhaps."""

    parameters: dict[str, StaticParameter]
    open: bool = False
    note: str = ""

    def without(self, names: tuple[str, ...]) -> StaticSignature:
        return self._replace(parameters={k: v for k, v in self.parameters.items() if k not in names})


NOTHING = StaticSignature({})

_NO_CONSTRUCTOR = {"builtins:object", "abc:ABC", "typing:Generic"}
_PLAIN_METACLASSES = {"abc:ABCMeta", "builtins:type"}
_KEEPS_SIGNATURE = {
    "abc:abstractmethod",
    "builtins:classmethod",
    "builtins:staticmethod",
    "contextlib:contextmanager",
    "dataclasses:dataclass",
    "functools:cache",
    "functools:lru_cache",
    "functools:total_ordering",
    "functools:wraps",
    "sgm_core:register",
    "typing:dataclass_transform",
    "typing:deprecated",
    "typing:final",
    "typing:no_type_check",
    "typing:override",
    "typing:runtime_checkable",
    "warnings:deprecated",
}
_REPLACES_NEW = {"typing:deprecated", "warnings:deprecated"}
"""Keep a function's signature, and give a class a `__new__` that hides its own."""

_MODULE = "torch.nn.modules.module:Module"


def signature_of(target: Definition, late: tuple[str, ...] = ()) -> StaticSignature:
    """The schema of a class or function, without its `late` leading parameters."""
    try:
        found = _signature(target)
    except UntoldError as error:
        return StaticSignature({}, open=True, note=str(error))
    if late:
        kept = list(found.parameters)[len(late) :]
        return found._replace(parameters={name: found.parameters[name] for name in kept})
    return found


def _signature(target: Definition) -> StaticSignature:
    match target.node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() as function:
            _check_decorators(target.module, function)
            inside = "." in target.name and not _has(target.module, function, "builtins:staticmethod")
            if inside and not _has(target.module, function, "builtins:classmethod"):
                return _of_function(target.module, function)  # called on the class: `self` has to be given
            return _of_function(target.module, function, skip=int(inside))
        case ast.ClassDef() as cls:
            _check_decorators(target.module, cls)
            return _of_class(target, order_of(target))
    raise UntoldError(f"{target.canonical} is an object made at run time: its signature can only be told by importing")


# --- functions -----------------------------------------------------------------------------------------------------


def _of_function(
    module: Module, function: Function, skip: int = 0, owner: ast.ClassDef | None = None
) -> StaticSignature:
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    pairs = [*zip(positional, defaults, strict=True)][skip:]
    pairs += list(zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True))
    variables = {**(_variables(owner) if owner else {}), **_variables(function)}
    parameters = {arg.arg: _parameter(module, arg.arg, arg.annotation, default, variables) for arg, default in pairs}
    for arg in arguments.posonlyargs:
        if arg.arg in parameters:
            parameters[arg.arg] = parameters[arg.arg]._replace(type=POSITIONAL)
    return StaticSignature(parameters, open=arguments.kwarg is not None)


def _variables(node: Function | ast.ClassDef) -> dict[str, ast.expr | None]:
    """The type parameters of `def f[T: int]`, with their bounds."""
    return {p.name: getattr(p, "bound", None) for p in getattr(node, "type_params", ())}


def _parameter(
    module: Module,
    name: str,
    hint: ast.expr | None,
    default: ast.expr | None,
    variables: dict[str, ast.expr | None] | None = None,
) -> StaticParameter:
    reader = Hint(module, variables)
    type_ = reader.read(hint)
    text = None if default is None else ast.unparse(default)
    value = literal(default)
    if isinstance(default, ast.Name) and value is UNTOLD:  # `wordings: tuple[str, ...] = WORDINGS`
        found = resolve(module, default)
        if isinstance(found, Definition) and isinstance(found.node, ast.expr):
            value = literal(found.node)
            text = text if value is UNTOLD else repr(value)
    return StaticParameter(name, with_default(type_, value), text, value, "; ".join(dict.fromkeys(reader.notes)))


def with_default(type_: Type, default: Any) -> Type:
    """A type with null, where that is the default: `width: int = None`."""
    null = Scalar(type(None))
    if default is not None or any(option in (AnyType(), null) for option in options_of(type_)):
        return type_
    return Either((*(type_.options if isinstance(type_, Either) else (type_,)), null))


def literal(node: ast.expr | None) -> Any:
    """The value of a literal, of `math.inf` or `float("inf")`, else UNTOLD."""
    if node is None:
        return UNTOLD
    match node:  # no literals, but as plain as them
        case ast.Attribute(value=ast.Name(id="math"), attr="inf" | "nan" | "pi" as name):
            return getattr(math, name)
        case ast.Call(func=ast.Name(id="float"), args=[ast.Constant(value="inf" | "-inf" | "nan" as text)]):
            return float(text)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return UNTOLD


def _check_decorators(module: Module, node: Function | ast.ClassDef) -> None:
    """Raise UntoldError for a decorator that may give the thing another signature."""
    for decorator in node.decorator_list:
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        hidden = isinstance(node, ast.ClassDef) and any(_is(module, called, name) for name in _REPLACES_NEW)
        if hidden or not _keeps_signature(module, called):
            raise UntoldError(f"the decorator '{ast.unparse(called)}' of {module.name}:{node.name} may change it")


def _keeps_signature(module: Module, decorator: ast.expr) -> bool:
    try:
        found = resolve(module, decorator)
    except UntoldError:
        return False
    if isinstance(found, Definition) and isinstance(found.node, ast.FunctionDef):
        return any(
            _has(found.module, inner, "functools:wraps")
            for inner in ast.walk(found.node)
            if isinstance(inner, Function)
        ) or _returns_its_argument(found.node)
    return not isinstance(found, ModuleName) and found.canonical in _KEEPS_SIGNATURE


def _returns_its_argument(function: ast.FunctionDef) -> bool:
    """`def keep(cls): ...; return cls`, also one level down, in a decorator that takes arguments."""
    inner = [node for node in function.body if isinstance(node, ast.FunctionDef)]
    for candidate in inner or [function]:
        names = {argument.arg for argument in candidate.args.args[:1]}
        returns = [node for node in ast.walk(candidate) if isinstance(node, ast.Return)]
        if not returns or any(not (isinstance(r.value, ast.Name) and r.value.id in names) for r in returns):
            return False
    return True


def _has(module: Module, node: Function | ast.ClassDef, canonical: str) -> bool:
    for decorator in node.decorator_list:
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        if _is(module, called, canonical):
            return True
    return False


def _is(module: Module, reference: ast.expr, canonical: str) -> bool:
    """Whether a name in a module means that one thing."""
    try:
        found = resolve(module, reference)
    except UntoldError:
        return False
    return not isinstance(found, ModuleName) and found.canonical == canonical


# --- classes -------------------------------------------------------------------------------------------------------


def _of_class(cls: Definition, order: Order) -> StaticSignature:
    """The constructor that Python would find: the first `__new__` or `__init__` in the order of the bases."""
    if any(base.canonical == TYPED_DICT for base in order.classes):
        return _of_keys(order)
    for base in order.classes:
        _check_metaclass(base)
    for base in order.classes:
        if isinstance(base, External):
            if base.canonical in _NO_CONSTRUCTOR:
                continue
            if base.canonical == "typing:Protocol":
                return StaticSignature({}, open=True, note="a protocol has no constructor of its own")
            raise UntoldError(f"the constructor of {base.canonical} cannot be told")
        if base.canonical == _MODULE:  # takes any arguments, to refuse them
            return NOTHING
        assert isinstance(base.node, ast.ClassDef)
        own = constructor_in(base)
        if own is not None:
            _check_decorators(base.module, own)
            found = _of_function(base.module, own, skip=1, owner=base.node)
            passed = _forwarded(own) if found.open else None
            return found if passed is None else _with_forwarded(found, passed, cls, order, base)
        options = dataclass_options(base)
        if options is not None and options.get("init", True):
            return _of_fields(order, base)
        if any(_is(base.module, expression, "typing:NamedTuple") for expression in base.node.bases):
            return StaticSignature({p.name: p for p in _fields(base)})
        if order.gap and base is order.classes[0]:
            raise UntoldError(order.gap)
    if order.gap:
        raise UntoldError(order.gap)
    return NOTHING


class _Passed(NamedTuple):
    """What a constructor gives to the next one itself: so many by position, and these by name."""

    positional: int
    names: frozenset[str]


def _forwarded(constructor: Function) -> _Passed | None:
    """Of `super().__init__(a, b=b, **kwargs)`, a statement of the constructor that alone uses its `**kwargs`."""
    kwarg = constructor.args.kwarg
    assert kwarg is not None
    if sum(isinstance(node, ast.Name) and node.id == kwarg.arg for node in ast.walk(constructor)) != 1:
        return None
    for statement in constructor.body:
        call = statement.value if isinstance(statement, ast.Expr) else None
        if not isinstance(call, ast.Call) or ast.unparse(call.func) != f"super().{constructor.name}":
            continue
        stars = [ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg is None]
        if stars == [kwarg.arg] and not any(isinstance(arg, ast.Starred) for arg in call.args):
            return _Passed(len(call.args), frozenset(k.arg for k in call.keywords if k.arg is not None))
    return None


def _with_forwarded(
    found: StaticSignature, passed: _Passed, cls: Definition, order: Order, base: Class
) -> StaticSignature:
    """A constructor's parameters with those of the next one in the order, which is given its `**kwargs`."""
    try:
        if order.gap:
            raise UntoldError(order.gap)
        below = _of_class(cls, order._replace(classes=order.classes[order.classes.index(base) + 1 :]))
    except UntoldError as error:
        return found._replace(note=f"its **kwargs go on, and {error}")
    left = [p for p in [*below.parameters.values()][passed.positional :] if p.name not in passed.names]
    return StaticSignature({**{p.name: p for p in left}, **found.parameters}, below.open, below.note)


def constructor_in(cls: Definition) -> Function | None:
    """The `__new__` or `__init__` that is written in a class.

    Raises:
        UntoldError: it is assigned, or depends on a condition.
    """
    assert isinstance(cls.node, ast.ClassDef)
    found: dict[str, list[Binding]] = {}
    for name, binding in cls.module.bindings_of(cls.node.body):
        if name in ("__new__", "__init__"):
            found.setdefault(name, []).append(binding)
    for name in ("__new__", "__init__"):
        bindings = found.get(name)
        if not bindings:
            continue
        last = bindings[-1]
        if not isinstance(last.what, Function) or (last.branch and len(bindings) > 1):
            raise UntoldError(f"{name} of {cls.canonical} is made at run time")
        return last.what
    return None


def _check_metaclass(cls: Class) -> None:
    if isinstance(cls, External) or not isinstance(cls.node, ast.ClassDef):
        return
    if any(name == "__signature__" for name, _ in cls.module.bindings_of(cls.node.body)):
        raise UntoldError(f"{cls.canonical} gives its signature itself")
    for keyword in cls.node.keywords:
        if keyword.arg != "metaclass":
            continue
        found = resolve(cls.module, keyword.value)
        if isinstance(found, ModuleName) or found.canonical in _PLAIN_METACLASSES:
            continue
        if isinstance(found, Definition) and isinstance(found.node, ast.ClassDef):
            if _has(found.module, found.node, "typing:dataclass_transform"):
                raise UntoldError(f"the constructor of {cls.canonical} is made from its fields at run time")
            order = order_of(found)
            sources = [c for c in order.classes if isinstance(c, Definition)]
            others = {c.canonical for c in order.classes if isinstance(c, External)}
            special = ("__call__", "__signature__")
            calls = any(name in special for c in sources for name, _ in c.module.bindings_of(c.node.body))  # type: ignore[union-attr]
            if not calls and not order.gap and others <= _PLAIN_METACLASSES:
                continue
        raise UntoldError(f"the metaclass of {cls.canonical} may make the call another one")


# --- fields --------------------------------------------------------------------------------------------------------


class _Field(NamedTuple):
    parameter: StaticParameter
    init: bool
    keyword_only: bool


def _of_fields(order: Order, cls: Definition) -> StaticSignature:
    """The generated constructor of a dataclass, fields of its bases first."""
    if order.gap:
        raise UntoldError(order.gap)
    found: dict[str, _Field] = {}
    start = next(i for i, base in enumerate(order.classes) if base is cls)
    for base in reversed(order.classes[start:]):
        options = dataclass_options(base)
        if options is not None and isinstance(base, Definition):
            found |= {field.parameter.name: field for field in _dataclass_fields(base, options.get("kw_only", False))}
    fields = [field for field in found.values() if field.init]
    fields.sort(key=lambda field: field.keyword_only)
    return StaticSignature({field.parameter.name: field.parameter for field in fields})


def _of_keys(order: Order) -> StaticSignature:
    """The keys of a TypedDict, those of its bases first."""
    if order.gap:
        raise UntoldError(order.gap)
    found: dict[str, StaticParameter] = {}
    for cls in (base for base in reversed(order.classes) if isinstance(base, Definition)):
        assert isinstance(cls.node, ast.ClassDef)
        total = next((literal(keyword.value) for keyword in cls.node.keywords if keyword.arg == "total"), True)
        for parameter, _ in _annotated(cls):
            hint = ast.parse(_text_of_hint(cls, parameter.name), mode="eval").body
            mark = hint.value if isinstance(hint, ast.Subscript) else hint
            marked = {name: _is(cls.module, mark, f"typing:{name}") for name in ("Required", "NotRequired")}
            needed = marked["Required"] or (total and not marked["NotRequired"])
            found[parameter.name] = parameter if needed else parameter._replace(default="", value=ABSENT)
    return StaticSignature(found)


def _dataclass_fields(cls: Definition, keyword_only: bool) -> Iterator[_Field]:
    for parameter, value in _annotated(cls):
        if parameter.name == "_" and _text_of_hint(cls, parameter.name).endswith("KW_ONLY"):
            keyword_only = True
            continue
        init, only = True, keyword_only
        if isinstance(value, ast.Call) and _is(cls.module, value.func, "dataclasses:field"):
            given = {keyword.arg: keyword.value for keyword in value.keywords}
            init = literal(given.get("init")) is not False
            only = {True: True, False: False}.get(literal(given.get("kw_only")), keyword_only)
            default, factory = given.get("default"), given.get("default_factory")
            text = f"{ast.unparse(factory)}()" if factory else ast.unparse(default) if default else None
            empty = {"list()": [], "dict()": {}}.get(text or "", UNTOLD)
            parameter = parameter._replace(default=text, value=empty if factory else literal(default))
        yield _Field(parameter, init, only)


def _fields(cls: Definition) -> Iterator[StaticParameter]:
    yield from (parameter for parameter, _ in _annotated(cls))


def _annotated(cls: Definition) -> Iterator[tuple[StaticParameter, ast.expr | None]]:
    """The annotated names of a class body, class variables left out."""
    assert isinstance(cls.node, ast.ClassDef)
    for node in cls.node.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            if _text_of_hint(cls, node.target.id).rpartition("typing.")[2].startswith("ClassVar"):
                continue
            parameter = _parameter(cls.module, node.target.id, node.annotation, node.value, _variables(cls.node))
            yield parameter, node.value


def _text_of_hint(cls: Definition, name: str) -> str:
    assert isinstance(cls.node, ast.ClassDef)
    for node in cls.node.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
            return ast.unparse(node.annotation).strip("'\"")
    return ""
