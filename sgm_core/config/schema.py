"""A constructor's signature as a schema: type hints become the types that a config value is checked against."""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import inspect
import itertools
import operator
import sys
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Any, Literal, NamedTuple, Union

import annotated_types

from sgm_core.config.lazy import Lazy
from sgm_core.kinds import KINDS

# --- the types -----------------------------------------------------------------------------------------------------


class AnyType(NamedTuple):
    """Plain data, not looked into."""


class Scalar(NamedTuple):
    """bool, int, float, str or None."""

    type: type


class Choice(NamedTuple):
    """One of a few values, `Literal`; or of the names of what a class `of` has, an Enum or `torch.dtype`."""

    values: tuple[Any, ...]
    of: Any = None


class PathType(NamedTuple):
    """A string that becomes a `Path`."""


class ListOf(NamedTuple):
    item: Type
    make: Callable[[list[Any]], Any] = list


class TupleOf(NamedTuple):
    """A list of fixed length."""

    items: tuple[Type, ...]


class DictOf(NamedTuple):
    key: Type
    value: Type


class Record(NamedTuple):
    """The fields of a dataclass, a NamedTuple or a TypedDict."""

    cls: type


class FixedWeights(NamedTuple):
    """Annotation marker of a part: nothing but a config gives it its weights.

    `embedder: Annotated[Embedder, FixedWeights(unless="trainable")]`

    A config builds it with random numbers of its own, which depend on what the config says of it. So the rest of the
    model is the same whether the part is built at once, later, or never.

    Attributes:
        cached: the flag beside it with which the component `cached` takes its place, and is given the part as `Lazy`.
        unless: the flag with which it is trained, and built like any other.
    """

    cached: str = ""
    unless: str = ""


class Component(NamedTuple):
    """A part looked up by name in the registry; `of` is the hint, for parts that must be a certain class.

    `lazy`: it is handed over unbuilt, see `Lazy`.
    """

    kind: str
    of: Any = None
    lazy: bool = False
    fixed: FixedWeights | None = None


class Arguments(NamedTuple):
    """Annotation marker and type: a mapping of keyword arguments for `target` (`module:attribute`), called later.

    `trainer: Annotated[TrainerFactory, Arguments("lightning.pytorch:Trainer")]`

    `taken` are the parameters that the caller itself gives: a config cannot.
    """

    target: str
    taken: tuple[str, ...] = ()


class Bounded(NamedTuple):
    """A type with limits from `Annotated[..., Ge(0)]`: (("ge", 0),)."""

    type: Type
    limits: tuple[tuple[str, Any], ...]


class Either(NamedTuple):
    """A union; the options in the order written."""

    options: tuple[Type, ...]


class Opaque(NamedTuple):
    """An object that a config cannot write; from Python an instance may be passed. `why` is there for what none can."""

    cls: Any
    why: str = ""


_Leaf = AnyType | Scalar | Choice | PathType | Record | Component | Arguments | Opaque
Type = _Leaf | ListOf | TupleOf | DictOf | Bounded | Either

_NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "a string", type(None): "null"}
_BY_NAME = "by name or 'use:'"
_PLURALS = {int: "integers", float: "numbers", str: "strings"}
LIMITS: dict[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "ge": (">=", operator.ge),
    "gt": (">", operator.gt),
    "le": ("<=", operator.le),
    "lt": ("<", operator.lt),
    "min_length": ("length >=", lambda value, limit: len(value) >= limit),
    "max_length": ("length <=", lambda value, limit: len(value) <= limit),
    "multiple_of": ("a multiple of", lambda value, limit: value % limit == 0),
}
"""By the attribute of a mark in `Annotated`: how it is called, and whether a value keeps it."""


def describe(type_: Type) -> str:
    """What is accepted, for messages: `a number (>= 0, <= 1) or null`."""
    match type_:
        case AnyType():
            return "anything"
        case Scalar(t):
            return _NAMES[t]
        case Choice(values):
            return "one of " + ", ".join(spelt(value, repr) for value in values)
        case PathType():
            return "a path"
        case ListOf(Scalar(t), _) if t in _PLURALS:
            return f"a list of {_PLURALS[t]}"
        case ListOf(Component(kind, _), _):
            return f"a list of {kind} ({_BY_NAME})"
        case ListOf(AnyType(), _):
            return "a list"
        case ListOf(item, _):
            return f"a list of ({describe(item)})"
        case TupleOf(items):
            return f"a list of {len(items)} (" + ", ".join(describe(item) for item in items) + ")"
        case DictOf(_, value):
            return "a mapping" if isinstance(value, AnyType) else f"a mapping to ({describe(value)})"
        case Record(cls):
            return f"a mapping ({', '.join(signature(cls).parameters)})"
        case Component(kind, _):
            return f"{article(kind)} {KINDS[kind].noun} ({_BY_NAME})"
        case Arguments(target, _):
            return f"a mapping of arguments of {target.replace(':', '.')}"
        case Bounded(inner, limits):
            return f"{describe(inner)} ({', '.join(f'{LIMITS[name][0]} {limit}' for name, limit in limits)})"
        case Either(options):
            # what only Python can give is no help to the author of a file, unless there is nothing else
            shown: list[Type] = [option for option in options if not isinstance(option, Opaque)] or [*options]
            choices = [value for option in shown if isinstance(option, Choice) for value in option.values]
            merged: list[Type] = [option for option in shown if not isinstance(option, Choice)]
            if choices:
                merged.insert(0, Choice(tuple(choices)))
            if Scalar(float) in merged and Scalar(int) in merged:  # an integer is a number
                merged.remove(Scalar(int))
            merged.sort(key=lambda option: option == Scalar(type(None)))
            return " or ".join(dict.fromkeys(describe(option) for option in merged))
        case Opaque(cls, why):
            name = getattr(cls, "__name__", str(cls))
            return why or f"{article(name)} {name} object, which only Python code can give"


def article(word: str) -> str:
    return "an" if word[0].lower() in "aeiou" else "a"


def spelt(value: Any, otherwise: Callable[[Any], str] = str) -> str:
    """A scalar as in YAML, where that is another word than Python's."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else otherwise(value)


# --- signatures ----------------------------------------------------------------------------------------------------

REQUIRED: Any = inspect.Parameter.empty
ABSENT: Any = object()
"""The default of a key that a TypedDict may be without."""


class Parameter(NamedTuple):
    """What can be given by name. The default of a dataclass's field is its factory, unless that makes a container."""

    name: str
    type: Type
    default: Any = REQUIRED

    @property
    def required(self) -> bool:
        return self.default is REQUIRED


class Signature(NamedTuple):
    """What a component can be given. `open` says that it takes keywords beyond these (`**kwargs`)."""

    parameters: dict[str, Parameter]
    open: bool = False

    def without(self, names: tuple[str, ...]) -> Signature:
        """What is left to give when these are given already."""
        return Signature({k: v for k, v in self.parameters.items() if k not in names}, self.open)


@functools.cache
def signature(target: Any, late: tuple[str, ...] = ()) -> Signature:
    """The schema of a class or function, without its `late` leading parameters. Read once per process."""
    found: dict[str, Parameter] = {}
    if hasattr(target, "__required_keys__"):  # a TypedDict, which does not see a mark in a hint that is a text
        for key, hint in _hints_of(target).items():
            mark = typing.get_origin(hint)
            needed = mark is typing.Required or (key in target.__required_keys__ and mark is not typing.NotRequired)
            found[key] = Parameter(key, from_hint(hint), REQUIRED if needed else ABSENT)
        return Signature(found)
    try:
        parameters = list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):  # written in C, without a text signature: the call itself will tell
        return Signature({}, open=True)
    if _inherits_module_constructor(target):
        return Signature({})
    hints = written_hints(target)
    defaults = {p.name: p.default for p in parameters}
    for field in dataclasses.fields(target) if dataclasses.is_dataclass(target) else ():
        if field.default_factory is not dataclasses.MISSING:
            make: Any = field.default_factory
            defaults[field.name] = make() if make in _CONTAINERS else make
    for p in [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)][len(late) :]:
        hint, default = hints.get(p.name, Any), defaults[p.name]
        if default is None and hint not in (Any, object):  # `width: int = None` takes null
            hint = typing.Optional[hint]  # noqa: UP045 - a hint that is known when it runs
        found[p.name] = Parameter(p.name, POSITIONAL if p.kind is p.POSITIONAL_ONLY else from_hint(hint), default)
    return Signature(found, open=any(p.kind is p.VAR_KEYWORD for p in parameters))


POSITIONAL = Opaque(object, "a value by position, which no config can give (the '/' in the signature has to go)")


def _inherits_module_constructor(target: Any) -> bool:
    """`nn.Module` takes any arguments, to refuse them: a class without a constructor of its own takes none."""
    torch_nn = sys.modules.get("torch.nn")
    return torch_nn is not None and getattr(target, "__init__", None) is torch_nn.Module.__init__


def written_hints(target: Any) -> dict[str, Any]:
    """Resolved hints of a constructor or function."""
    if isinstance(target, functools.partial):
        return written_hints(target.func)
    if not inspect.isclass(target):
        itself = inspect.isroutine(target) or hasattr(target, "__signature__")
        return _hints_of(target if itself else type(target).__call__)
    made = vars(target).get("__dataclass_params__")
    if (made and made.init) or hasattr(target, "_field_defaults"):  # generated: fields resolve where they are written
        return _hints_of(target)
    return _hints_of(target.__new__) | _hints_of(target.__init__)


def _hints_of(target: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(target, include_extras=True)
    except Exception:  # any expression may stand in a hint; what it raises is not ours to know
        return _hints_one_by_one(target)


def _hints_one_by_one(target: Any) -> dict[str, Any]:
    """For a target of which not all hints resolve: roles are known by name, another missing name makes a hint Any."""
    from sgm_core import roles

    known = {kind.role.partition(":")[2]: role_of(name) for name, kind in KINDS.items()}
    hints: dict[str, Any] = {}
    for owner in reversed(target.__mro__) if inspect.isclass(target) else [target]:
        there = vars(sys.modules.get(owner.__module__, roles)) | getattr(inspect.unwrap(owner), "__globals__", {})
        for name, hint in inspect.get_annotations(owner).items():
            one = types.SimpleNamespace(__annotations__={name: hint})
            try:
                hints |= typing.get_type_hints(one, known | there, include_extras=True)
            except Exception:  # as above
                hints[name] = Any
    return hints


# --- hints ---------------------------------------------------------------------------------------------------------

_SCALARS = (bool, int, float, str, type(None))
_SEQUENCES: dict[Any, Callable[[list[Any]], Any]] = {
    list: list,
    set: set,
    frozenset: frozenset,
    collections.abc.Sequence: list,
    collections.abc.Iterable: list,
    collections.abc.Collection: list,
}
_CONTAINERS = (list, dict, tuple, set, frozenset)
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_RECORDS = ("_field_defaults", "__required_keys__")  # of a NamedTuple, a TypedDict
QUALIFIERS = ("Required", "NotRequired", "ReadOnly", "Final", "ClassVar")
DTYPES = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "complex64", "complex128",
          "int64", "int32", "int16", "int8", "uint8", "bool")  # fmt: skip

MAX_PARTS = 1000  # of one hint, aliases followed: those that name each other twice would unfold without end


def from_hint(hint: Any, inside: tuple[Any, ...] = (), parts: Iterator[int] | None = None) -> Type:
    """The type behind a hint; what a config cannot express is `Opaque`. An alias that occurs `inside` itself is any
    data from there on, and so is the rest of a hint of more than `MAX_PARTS` parts."""
    parts = parts or itertools.count(1)
    inner = functools.partial(from_hint, inside=inside, parts=parts)
    if hint in (Any, object, REQUIRED) or isinstance(hint, (str, typing.ForwardRef)) or next(parts) > MAX_PARTS:
        return AnyType()
    if hint is None or hint in _SCALARS:
        return Scalar(hint or type(None))
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _annotated(inner(args[0]), args[1:])
    if origin is Literal:
        return Choice(args)
    if origin in (Union, types.UnionType):
        return Either(tuple(inner(arg) for arg in args))
    if origin is tuple or hint is tuple:
        if not args or args[-1] is Ellipsis:
            return ListOf(inner(args[0]) if args else AnyType(), tuple)
        return TupleOf(tuple(inner(arg) for arg in args))
    base = origin or hint
    if base in _SEQUENCES:
        return ListOf(inner(args[0]) if args else AnyType(), _SEQUENCES[base])
    if base in _MAPPINGS:
        key, value = args or (Any, Any)
        return DictOf(inner(key), inner(value))
    if base is Path:
        return PathType()
    if base is Lazy:
        return unbuilt(inner(args[0]))
    if getattr(origin, "_name", None) in QUALIFIERS:
        return inner(args[0])
    component = _component(base)
    if component is not None:
        return component
    names = DTYPES if base is getattr(sys.modules.get("torch"), "dtype", None) else getattr(base, "__members__", ())
    if inspect.isclass(base) and names:
        return Choice(tuple(names), base)
    if inspect.isclass(base) and (dataclasses.is_dataclass(base) or any(hasattr(base, mark) for mark in _RECORDS)):
        return Record(base)
    if isinstance(hint, (typing.NewType, dataclasses.InitVar)):
        return inner(hint.type if isinstance(hint, dataclasses.InitVar) else hint.__supertype__)
    if isinstance(hint, typing.TypeVar):
        return AnyType() if hint in inside else from_hint(hint.__bound__ or Any, (*inside, hint), parts)
    if hasattr(hint, "__value__"):  # `type X = ...` of Python 3.12
        return AnyType() if base in inside else from_hint(hint.__value__, (*inside, base), parts)
    return Opaque(base)


def _annotated(type_: Type, metadata: tuple[Any, ...]) -> Type:
    for mark in metadata:
        if isinstance(mark, Arguments):
            return mark
        if isinstance(mark, FixedWeights):
            return fixed(type_, mark)
    groups = [mark if isinstance(mark, annotated_types.GroupedMetadata) else [mark] for mark in metadata]
    limits = tuple(
        (name, limit)
        for mark in itertools.chain(*groups)
        if isinstance(mark, annotated_types.BaseMetadata)  # other libraries' marks say nothing to us
        for name in LIMITS
        if (limit := getattr(mark, name, None)) is not None and (name, limit) != ("min_length", 0)
    )
    return Bounded(type_, limits) if limits else type_


def unbuilt(type_: Type) -> Type:
    """`Lazy[...]` of a component; what the engine itself builds late is that already."""
    return type_._replace(lazy=True) if isinstance(type_, Component) and not KINDS[type_.kind].late else type_


def fixed(type_: Type, mark: FixedWeights) -> Type:
    """A component with the marker; a marker of anything else says nothing."""
    return type_._replace(fixed=mark) if isinstance(type_, Component) else type_


def _component(cls: Any) -> Component | None:
    """The kind whose role a class is, or extends: any of the kind's components, or only those of this class."""
    roles = _role_kinds("lightning.pytorch" in sys.modules)
    try:
        if cls in roles:
            return Component(roles[cls])
    except TypeError:  # unhashable
        return None
    kind = next((roles[base] for base in getattr(cls, "__mro__", ()) if base in roles), None)
    return None if kind is None else Component(kind, cls)


@functools.cache
def role_of(kind: str) -> Any:
    """The type that stands for a kind."""
    return resolve_name(KINDS[kind].role)


@functools.cache
def _role_kinds(with_lightning: bool) -> dict[Any, str]:
    """Role -> kind. Without Lightning's roles as long as nobody has imported Lightning: no hint can be one of them."""
    from sgm_core.roles import LIGHTNING

    roles = {kind: KINDS[kind].role.partition(":")[2] for kind in KINDS}
    return {role_of(kind): kind for kind, name in roles.items() if with_lightning or name not in LIGHTNING}


# --- values --------------------------------------------------------------------------------------------------------


def is_plain(value: Any) -> bool:
    """Whether a file or a checkpoint can hold a value; a numpy number, say, is none that it can."""
    return type(value) in _SCALARS or isinstance(value, (Path, dict, list))


_FORMS: dict[type, tuple[type, ...]] = {
    Arguments: (dict,),
    Component: (str, dict),
    DictOf: (dict,),
    ListOf: (list,),
    PathType: (str, Path),
    Record: (dict,),
    TupleOf: (list,),
}


def same_shape(value: Any, type_: Type) -> bool:
    """Whether a value could be meant for this option of a union."""
    return any(_fits(value, option) for option in options_of(type_))


def _fits(value: Any, option: Type) -> bool:
    match option:
        case AnyType():
            return True
        case Scalar(t):
            return isinstance(value, (int, float) if t is float else t) and isinstance(value, bool) == (t is bool)
        case Choice(values):
            return any(type(value) is type(choice) for choice in values) or is_object_of(value, option)
    return isinstance(value, _FORMS.get(type(option), ())) if is_plain(value) else is_object_of(value, option)


def rank(value: Any, option: Type) -> int:
    """In which order the options of a union are tried."""
    match option:
        case Bounded(inner, _):
            return rank(value, inner)
        case Component() | Choice():
            return 0  # a name that is known means the component, in `str | Sampler` too
        case Scalar(t):
            return 1 if type(value) is t else 2
        case Either() | AnyType():
            return 3
        case _:
            return 2


def options_of(type_: Type) -> list[Type]:
    """The options of a union, of unions in it too, without limits; any other type is its own only option."""
    match type_:
        case Bounded(inner, _):
            return options_of(inner)
        case Either(options):
            return [inner for option in options for inner in options_of(option)]
        case _:
            return [type_]


def is_object_of(value: Any, type_: Type) -> bool:
    """Whether an object that Python code gave can stand where this type is wanted."""
    match type_:
        case Record(cls) | Opaque(cls) | Choice(_, cls):
            return cls is not None and not is_plain(value) and is_instance(value, cls)
        case Component(kind, of):
            return is_instance(value, of or role_of(kind))
        case Arguments():
            return callable(value)
        case _:
            return False


def is_instance(value: Any, cls: Any) -> bool:
    """Whether an object that Python code gave can stand for `cls`; a class that cannot be asked takes any."""
    if getattr(cls, "_is_protocol", False) and "__call__" in vars(cls):
        return callable(value)
    try:
        return isinstance(value, cls)
    except TypeError:  # a TypedDict, a generic
        return True
