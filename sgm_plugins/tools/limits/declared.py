"""What components say of the infinite level: the static method `infinite` of a class, read from source or called.

    class FlowScaling(Scaling):
        @staticmethod
        def infinite() -> str:
            return "c_noise"

| kind | `infinite(...)` gives |
|---|---|
| discretizations | `infinite(n, *, ...)`: whether the first of n levels is infinite; n is None if it is not known |
| scalings | of `at_infinity`: "c_noise" if all limits are finite, "index" if only c_noise has none, "" for None |
| denoisers | whether sigma may be infinite |
| samplers, sigma_samplers | False if they never use an infinite level that their discretization has |

Keyword-only parameters are those of the constructor that it needs, as in `sgm_core.shapes`; a part arrives as a
function that gives what the part says. It is not inherited. A single `return` of comparisons, conditions and calls of
parts is read from source, so that `sgm check` need not import the component; any other body is called once it is
imported.
"""

from __future__ import annotations

import ast
import inspect
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from sgm_core.config.plan import Call, Items, Plan, Value
from sgm_core.config.shapes import call_of
from sgm_core.shapes import own_static
from sgm_plugins.tools.catalog.source.hints import StaticClass
from sgm_plugins.tools.catalog.source.names import Definition, UntoldError, class_member

NAME = "infinite"


class UnknownError(Exception):
    """A component does not say it, or not without being imported."""


class Declaration(NamedTuple):
    """The static method of a class: what it asks of the constructor, and its call."""

    asks: list[str]
    call: Callable[..., Any]


def said_by(plan: Plan | None, *given: Any) -> Any:
    """What a component says, from its arguments.

    Args:
        given: positional arguments; the number of levels asked of a discretization.

    Raises:
        UnknownError.
    """
    call = call_of(plan)
    if call is None:
        raise UnknownError
    declared = _declaration(call.target)
    arguments = {name: _argument(call, name) for name in declared.asks}
    try:
        return declared.call(*given, **arguments)
    except UnknownError:
        raise
    except Exception as error:  # a plugin's; nobody should be kept from training by a mistake in it
        raise UnknownError from error


def _declaration(target: Any) -> Declaration:
    if isinstance(target, StaticClass):
        return _from_source(target)
    found = own_static(target, NAME)
    if found is None:
        raise UnknownError
    parameters = inspect.signature(found).parameters.values()
    return Declaration([p.name for p in parameters if p.kind is p.KEYWORD_ONLY], found)


def _argument(call: Call, name: str) -> Any:
    if name in call.arguments:
        return _told(call.arguments[name])
    parameter = call.schema.parameters.get(name)
    if parameter is None or not _is_plain(parameter.default):
        raise UnknownError
    return parameter.default


def _told(plan: Plan) -> Any:
    match plan:
        case Value(value) if _is_plain(value):
            return value
        case Items(items):
            return [_told(item) for item in items]
        case Call():
            return lambda *given: said_by(plan, *given)
    raise UnknownError


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


# --- from source ---------------------------------------------------------------------------------------------------


def _from_source(target: StaticClass) -> Declaration:
    try:
        assert isinstance(target.meaning, Definition)
        node = class_member(target.meaning, NAME).node
    except (AssertionError, UntoldError):
        raise UnknownError from None
    if not isinstance(node, ast.FunctionDef) or [ast.unparse(d) for d in node.decorator_list] != ["staticmethod"]:
        raise UnknownError
    statements = [s for s in node.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
    match statements:
        case [ast.Return(value=ast.expr() as returned)]:
            positional = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
            asks = [a.arg for a in node.args.kwonlyargs]
            return Declaration(asks, lambda *given, **named: _value(returned, dict(zip(positional, given)) | named))  # noqa: B905
    raise UnknownError


_COMPARED: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda value, values: value in values,
    ast.NotIn: lambda value, values: value not in values,
}


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """The value of an expression of few kinds, for these names. UnknownError for any other kind."""
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name) if name in names:
            return names[name]
        case ast.Attribute() if ast.unparse(node) == "math.inf":
            return math.inf
        case ast.BoolOp(op=op, values=values):
            result = None
            for part in values:
                result = _value(part, names)
                if bool(result) == isinstance(op, ast.Or):
                    break
            return result
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _value(operand, names)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            return _value(body if _value(test, names) else orelse, names)
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            return _COMPARED[type(op)](_value(left, names), _value(right, names))
        case ast.Subscript(value=value, slice=index):
            return _value(value, names)[_value(index, names)]
        case ast.Tuple(elts=items) | ast.List(elts=items) | ast.Set(elts=items):
            return [_value(item, names) for item in items]
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if callable(names.get(name)):
            return names[name](*(_value(argument, names) for argument in arguments))
    raise UnknownError
