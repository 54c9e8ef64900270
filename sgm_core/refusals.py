"""Parts that make no sense together, as their classes declare it.

A class says what it does not take as a literal in its body, condition -> reason:

    class DiscreteDenoiser(Denoiser):
        refuses: ClassVar[dict[str, str]] = {
            "num_idx > discretization.num_timesteps": "the discretization has {discretization.num_timesteps} levels",
        }

A condition is a small Python expression: names are the constructor's parameters; a dot leads to an argument of the
component that is given for one, or to an attribute of its class (`scaling.log_c_noise`). It may compare, and join with
`and`, `or` and `not`. `{...}` in the reason shows a value. What can not be told (a parameter of another component, a
value that Python code makes) never refuses anything.

`sgm check` reads declarations and arguments from source, so that a config is refused before anything is imported; a
constructor calls `check_refusals`, so that Python code is refused as well.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

ATTRIBUTE = "refuses"

UNTOLD: Any = object()
"""The value of what can not be told without running code."""

Look = Callable[[str], Any]
"""Dotted name -> its value, or UNTOLD."""

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}


class ConditionError(ValueError):
    """A condition that is not of the form described above."""


class Condition(NamedTuple):
    """A condition, parsed. `names` are its parameters in the order written."""

    tree: ast.expr
    names: tuple[str, ...]

    def holds(self, look: Look) -> bool:
        """Whether it is certain to hold."""
        value = _value(self.tree, look)
        return value is not UNTOLD and bool(value)


@lru_cache(maxsize=256)
def condition(text: str) -> Condition:
    """Parse a condition.

    Raises:
        ConditionError: another expression than this module's docstring allows.
    """
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError):
        raise ConditionError(f"'{text}' is no condition: write a comparison of parameters") from None
    return Condition(tree, tuple(dict.fromkeys(_names(tree, text))))


def show(reason: str, look: Look) -> str:
    """The reason, with each `{name}` replaced by its value where that is told."""

    def value(match: re.Match[str]) -> str:
        found = look(match[1])
        return match[0] if found is UNTOLD else str(found)

    return re.sub(r"\{([\w.]+)\}", value, reason)


def check_refusals(component: Any, /, **arguments: Any) -> None:
    """For a constructor: raise ValueError with the reason if its class refuses these arguments together.

    Args:
        component: the object that is being built.
        arguments: what its constructor was given, by parameter.
    """

    def look(name: str) -> Any:
        first, *rest = name.split(".")
        value = arguments.get(first, UNTOLD)
        for part in rest:
            value = UNTOLD if value is UNTOLD else getattr(value, part, UNTOLD)
        return value

    declared: Mapping[str, str] = getattr(type(component), ATTRIBUTE, {})
    for text, reason in declared.items():
        if condition(text).holds(look):
            raise ValueError(show(reason, look))


def _names(node: ast.expr, text: str) -> list[str]:
    match node:
        case ast.BoolOp(values=values):
            return [name for value in values for name in _names(value, text)]
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return _names(operand, text)
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARISONS:
            return [*_names(left, text), *_names(right, text)]
        case ast.Name(id=name) | ast.Attribute(value=ast.Name(id=name)):
            return [name]
        case ast.Constant():
            return []
    raise ConditionError(f"'{text}' is no condition: '{ast.unparse(node)}' can not stand in one")


def _value(node: ast.expr, look: Look) -> Any:
    match node:
        case ast.BoolOp(op=op, values=values):
            found = [_value(value, look) for value in values]
            decisive = isinstance(op, ast.Or)  # one true value settles an `or`, one false an `and`
            if any(value is not UNTOLD and bool(value) == decisive for value in found):
                return decisive
            return UNTOLD if any(value is UNTOLD for value in found) else not decisive
        case ast.UnaryOp(operand=operand):
            value = _value(operand, look)
            return UNTOLD if value is UNTOLD else not value
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            a, b = _value(left, look), _value(right, look)
            try:
                return UNTOLD if a is UNTOLD or b is UNTOLD else _COMPARISONS[type(op)](a, b)
            except TypeError:  # None or a text where there should be a number: another problem, reported elsewhere
                return UNTOLD
        case ast.Constant(value=constant):
            return constant
    return look(ast.unparse(node))
