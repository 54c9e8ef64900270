"""Classes in source: their order of bases, whether they are dataclasses, the kind whose role they fill."""

from __future__ import annotations

import ast
import functools
from typing import NamedTuple

from sgm_core.kinds import KINDS
from sgm_plugins.tools.catalog.source.names import Definition, External, ModuleName, UntoldError, definition_of, resolve

ROLES = "sgm_core.roles"

NAMED_TUPLE, TYPED_DICT = "typing:NamedTuple", "typing:TypedDict"
ENUMS = frozenset(f"enum:{name}" for name in ("Enum", "IntEnum", "StrEnum", "Flag", "IntFlag", "ReprEnum"))

Class = Definition | External


class Order(NamedTuple):
    """A class and its bases, as Python searches them, `object` left out. `gap` says why it may be incomplete."""

    classes: tuple[Class, ...]
    gap: str = ""


def order_of(cls: Class, inside: tuple[str, ...] = (), known: dict[str, Order] | None = None) -> Order:
    """The method resolution order (C3). `known` are those of bases already met: each is read once."""
    known = {} if known is None else known
    if isinstance(cls, External) or cls.canonical in inside:
        return Order((cls,))
    if cls.canonical in known:
        return known[cls.canonical]
    assert isinstance(cls.node, ast.ClassDef)
    gap = ""
    direct: list[Class] = []
    orders: list[list[Class]] = []
    for expression in cls.node.bases:
        try:
            base = base_of(cls, expression)
        except UntoldError as error:
            gap = gap or str(error)
            continue
        if base.canonical == "builtins:object":
            continue
        order = order_of(base, (*inside, cls.canonical), known)
        gap = gap or order.gap
        direct.append(base)
        orders.append(list(order.classes))
    merged: list[Class] = [cls]
    left = [*orders, list(direct)]
    while left := [order for order in left if order]:
        head = next((o[0] for o in left if not any(_same(o[0], c) for other in left for c in other[1:])), None)
        if head is None:
            return Order(tuple(merged), gap or f"the bases of {cls.canonical} have no order")
        merged.append(head)
        left = [order[1:] if _same(order[0], head) else order for order in left]
    known[cls.canonical] = Order(tuple(merged), gap)
    return known[cls.canonical]


def _same(a: Class, b: Class) -> bool:
    return a.canonical == b.canonical


def base_of(cls: Definition, expression: ast.expr) -> Class:
    """What a class statement names as a base.

    Raises:
        UntoldError: an expression, or a name that cannot be followed.
    """
    if isinstance(expression, ast.Subscript):  # Base[int]
        expression = expression.value
    meaning = resolve(cls.module, expression)
    if isinstance(meaning, ModuleName) or (
        isinstance(meaning, Definition) and not isinstance(meaning.node, ast.ClassDef)
    ):
        raise UntoldError(f"the base '{ast.unparse(expression)}' of {cls.canonical} is no class in source")
    return meaning


def dataclass_options(cls: Class) -> dict[str, bool] | None:
    """The literal options of a class's own `@dataclass`, or None for a class that has none."""
    if isinstance(cls, External) or not isinstance(cls.node, ast.ClassDef):
        return None
    for decorator in cls.node.decorator_list:
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        try:
            found = resolve(cls.module, called)
        except UntoldError:
            continue
        if not isinstance(found, ModuleName) and found.canonical == "dataclasses:dataclass":
            keywords = decorator.keywords if isinstance(decorator, ast.Call) else []
            return {k.arg: bool(k.value.value) for k in keywords if k.arg and isinstance(k.value, ast.Constant)}
    return None


def call_names(order: Order) -> list[str]:
    """What the constructor of a dataclass takes, by name: a written one, or the generated one, bases first."""
    bodies = [getattr(getattr(base, "node", None), "body", []) for base in order.classes]
    for base, body in zip(order.classes, bodies, strict=True):
        for node in body:
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                return [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)][1:]
        if (dataclass_options(base) or {"init": False}).get("init", True):
            break
    names: dict[str, None] = {}
    named = any(base.canonical in (NAMED_TUPLE, TYPED_DICT) for base in order.classes)
    for base, body in reversed([*zip(order.classes, bodies, strict=True)]):
        for node in body if named or dataclass_options(base) is not None else ():
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                hint = ast.unparse(node.annotation).strip("'\"").rpartition("typing.")[2]
                given = [f"{k.arg}={ast.unparse(k.value)}" for k in getattr(node.value, "keywords", [])]
                if not hint.startswith("ClassVar") and "init=False" not in given and node.target.id != "_":
                    names[node.target.id] = None
    return list(names)


_NO_DESCRIPTORS = (ast.Constant, ast.Tuple, ast.List, ast.Set, ast.Dict, ast.UnaryOp, ast.BinOp, ast.JoinedStr)


def enum_members(cls: Definition) -> list[str]:
    """The names of an Enum's members, aliases included, in the order written.

    Raises:
        UntoldError: a part of its body makes members, or keeps them out, when it runs.
    """
    assert isinstance(cls.node, ast.ClassDef)
    names: list[str] = []
    for statement in cls.node.body:
        match statement:
            case ast.Assign(targets=targets, value=value):
                found = [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]
                names += [name for name in found if _is_member(cls, name, value, names)]
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                names += [name] * _is_member(cls, name, value, names)
            case ast.FunctionDef(decorator_list=marks) if not any("member" in ast.unparse(mark) for mark in marks):
                continue
            case ast.AnnAssign() | ast.Expr(value=ast.Constant()) | ast.Pass():
                continue
            case _:
                raise UntoldError(f"the members of {cls.canonical} are made at run time")
    return names


def _is_member(cls: Definition, name: str, value: ast.expr, known: list[str]) -> bool:
    """Whether an assignment in an Enum makes a member: one of a name for Enum's own use, or of a function, does not."""
    private = name.startswith("__") or (name.startswith("_") and name.endswith("_"))
    if name != "_ignore_" and (private or isinstance(value, ast.Lambda)):
        return False
    if (name != "_ignore_" and isinstance(value, _NO_DESCRIPTORS)) or getattr(value, "id", "") in known:
        return True
    if isinstance(value, ast.Call):
        made = resolve(cls.module, value.func)
        if not isinstance(made, ModuleName) and made.canonical in ("enum:auto", "enum:member", "enum:nonmember"):
            return made.name != "nonmember"
    raise UntoldError(f"whether '{name}' is a member of {cls.canonical} cannot be told")


def kind_of(cls: Class) -> str | None:
    """The kind whose role this very class is."""
    if cls.canonical.startswith(f"{ROLES}:"):
        return _own_roles().get(cls.canonical)
    if cls.canonical.partition(".")[0] in _borrowed_from():
        return _borrowed_roles().get(cls.canonical)
    return None


@functools.cache
def _own_roles() -> dict[str, str]:
    return {kind.role: name for name, kind in KINDS.items()}


def _borrowed_from() -> frozenset[str]:
    """Top-level packages whose classes are roles: `Callback` is Lightning's."""
    return frozenset(canonical.partition(".")[0] for canonical in _borrowed_roles())


@functools.cache
def _borrowed_roles() -> dict[str, str]:
    """Where roles are defined that `sgm_core.roles` only names -> kind."""
    roles: dict[str, str] = {}
    for name, kind in KINDS.items():
        try:
            found = definition_of(kind.role)
        except UntoldError:
            continue
        if isinstance(found, Definition) and found.canonical != kind.role:
            roles[found.canonical] = name
    return roles
