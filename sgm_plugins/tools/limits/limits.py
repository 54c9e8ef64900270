"""Noise levels that begin with sigma = inf, against a denoiser that has no limit there: refused before it is built."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sgm_core.config.api import Config
from sgm_core.config.check import Checker
from sgm_core.config.plan import Call, Fields, Items, Plan, Value
from sgm_core.config.reader import source_reader
from sgm_core.config.shapes import call_of
from sgm_core.config.toplevel import check_tree
from sgm_core.config.tree import Problem
from sgm_plugins.tools.limits.declared import UnknownError, said_by

NUMBERS = ("num_levels", "num_idx", "num_steps")
"""Parameters that say how many levels are asked of a part: of a table, if there is one."""


def check_source(config: Config) -> list[Problem]:
    """`check_limits` of a config that was checked, by what source tells: nothing is imported."""
    return check_limits(check_tree(Checker(source_reader(), root=config.tree), config.tree))


def check_limits(plan: Plan) -> list[Problem]:
    """Each discretization that begins with an infinite level where the model's denoiser has no limit, with both lines.

    Args:
        plan: of a whole config, checked. Components that do not say what they do at infinity (see `declared`) are left
            to the errors that they give when they are used.
    """
    model = plan.arguments.get("model") if isinstance(plan, Call) else None
    denoiser = next(_outermost(model, "denoisers"), None) if isinstance(model, Call) else None
    if model is None or denoiser is None or _says(denoiser) is not False:
        return []
    users = [denoiser, *_outermost(model, "samplers"), *_outermost(model, "sigma_samplers")]
    return [_problem(grid, denoiser) for user in users for grid in _infinite(user)]


def _says(plan: Plan | None, *given: Any) -> Any:
    """What a component says of infinity; None if that is not known."""
    try:
        return said_by(plan, *given)
    except UnknownError:
        return None


def _infinite(user: Call) -> Iterator[Call]:
    """The discretizations that a part takes its levels from, and that begin with an infinite one."""
    if user.entry is not None and user.entry.kind != "denoisers" and _says(user) is False:
        return  # it leaves the level out
    for argument in user.arguments.values():
        for part in _outermost(argument, "discretizations", "sigma_samplers"):
            if part.entry is not None and part.entry.kind == "sigma_samplers":
                yield from _infinite(part)
            elif _says(part, _number(user)):
                yield part


def _number(user: Call) -> int | None:
    """How many levels a part asks for."""
    for name in NUMBERS:
        if name in user.schema.parameters:
            given = user.arguments.get(name)
            value = given.value if isinstance(given, Value) else user.schema.parameters[name].default
            return value if isinstance(value, int) else None
    return None


def _outermost(plan: Plan | None, *kinds: str) -> Iterator[Call]:
    """The components of these kinds in a plan, itself among them, but none inside another."""
    call = call_of(plan)
    if call is not None and call.entry is not None and call.entry.kind in kinds:
        yield call
        return
    match call or plan:
        case Call(arguments=parts) | Fields(parts):
            for part in parts.values():
                yield from _outermost(part, *kinds)
        case Items(items):
            for item in items:
                yield from _outermost(item, *kinds)


def _problem(grid: Call, denoiser: Call) -> Problem:
    """At the line of the levels, with that of what has no limit."""
    tables = [part for argument in denoiser.arguments.values() for part in _outermost(argument, "discretizations")]
    scaling = next(_outermost(denoiser, "scalings"), denoiser)
    finite = next((table for table in tables if _says(table, _number(denoiser)) is False), None)
    if finite is not None:
        reason = "but all levels in the table of the denoiser are finite: give both the same levels"
    else:
        named = "flow, x0, v" if tables else "flow, x0, v with c_noise atan or t"
        reason = f"where this scaling has no limit: take one that has ({named}), or levels that are finite"
    at = finite or scaling
    text = f"the noise levels begin with sigma = inf, pure noise, {reason}\n  {at.origin} {at.path} ({at.name})"
    return Problem(grid.origin, grid.path, text)
