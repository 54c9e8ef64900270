"""`${key.path}` in a config: a reference to another value, replaced once, before the config is checked.

    network: {in_channels: "${vars.channels}"}     # a whole value keeps its type; a mapping may be referred to as well
    data: {folder: "/data/${vars.name}/train"}     # inside a text
    sampler: {num_steps: "${..steps}"}             # relative: one dot is this mapping, two the one around it
    title: \\${literally}

It runs no code. `${oc.env:NAME}` (and `${oc.env:NAME,default}`), the one resolver, reads an environment variable
that the variable SGM_CONFIG_ENV lists: a saved config must not carry secrets.
"""

from __future__ import annotations

import os
import re
from functools import partial, reduce
from typing import Any

from sgm_core.config.schema import spelt
from sgm_core.config.tree import (
    INVALID,
    MAX_DEPTH,
    MAX_NODES,
    ConfigError,
    Node,
    Origin,
    Problem,
    Problems,
    copied,
    join,
    key_of,
    leaves,
    split_path,
)
from sgm_core.registry import did_you_mean

MAX_CHAIN = 50
"""References that lead to references."""

_OPEN = re.compile(r"(\\*)\$\{")
_BRACE = re.compile(r"\$\{|\}")

Steps = tuple[Any, ...]


def interpolate(tree: Node, problems: Problems) -> None:
    """Replace every `${...}` in place. What fails is reported once and left `INVALID`."""
    pending = {id(node) for _, node in leaves(tree) if isinstance(node.value, str) and "${" in node.value}
    _Interpolation(tree, pending, problems).resolve(tree, ())


def escape(text: str) -> str:
    """The spelling of a text that is not to be interpolated."""
    return _OPEN.sub(lambda match: "\\" * (2 * len(match[1]) + 1) + "${", text)


class _FailureError(Exception):
    """Why the value at hand cannot be resolved."""


class _Interpolation:
    def __init__(self, tree: Node, pending: set[int], problems: Problems) -> None:
        self.tree, self.pending, self.problems = tree, pending, problems
        self.active: dict[int, str] = {}  # the references being followed: node, path
        self.count = 0

    def resolve(self, node: Node, steps: Steps) -> None:
        """Replace what stands in a node and below it."""
        if isinstance(node.value, dict):
            for key, child in node.value.items():
                self.resolve(child, (*steps, key))
        elif isinstance(node.value, list):
            for position, child in enumerate(node.value):
                self.resolve(child, (*steps, position))
        elif id(node) in self.pending:
            self.replace(node, steps)

    def replace(self, node: Node, steps: Steps) -> None:
        path = _show(steps)
        if id(node) in self.active:
            raise _FailureError(f"it refers to itself: {' -> '.join([*self.active.values(), path])}")
        if len(self.active) > MAX_CHAIN:
            raise _FailureError(f"a chain of more than {MAX_CHAIN} references")
        text, self.active[id(node)] = node.value, path
        try:
            node.value = self.expand(text, steps, node.origin)
        except _FailureError as failure:
            self.problems.add(node.origin, path, f"{text} cannot be resolved: {failure}")
            node.value = INVALID
        finally:
            del self.active[id(node)]
            self.pending.discard(id(node))

    def expand(self, text: str, steps: Steps, origin: Origin) -> Any:
        """The value of a text: of any type where it is one reference and nothing else."""
        parts: list[Any] = []
        position = 0
        while match := _OPEN.search(text, position):
            slashes = len(match[1])
            before = text[position : match.start()] + "\\" * (slashes // 2)
            if slashes % 2:
                parts.append(before + "${")
                position = match.end()
                continue
            end = _closing(text, match.end())
            inside = self.expand(text[match.end() : end], steps, origin)
            value = INVALID if inside is INVALID else self.reference(str(inside), steps, origin)
            if not before and match.start() == 0 and end == len(text) - 1:
                return value
            parts += [before, _in_text(value)]
            position = end + 1
        return "".join([*parts, text[position:]]) if all(part is not INVALID for part in parts) else INVALID

    def reference(self, expression: str, steps: Steps, origin: Origin) -> Any:
        if ":" in expression:
            return _environment(expression)
        expression = expression.strip()
        up = len(expression) - len(expression.lstrip("."))
        if up > len(steps):
            raise _FailureError("there is nothing above the top level")
        target_steps = steps[: len(steps) - up] if up else ()
        try:
            target_steps = (*target_steps, *split_path(expression[up:]))
        except ValueError:
            raise _FailureError("write ${key.path}") from None
        target, found_steps = self.find(target_steps)
        self.resolve(target, found_steps)
        return copied(target, len(steps), partial(self.limit, origin), origin).value

    def find(self, steps: Steps) -> tuple[Node, Steps]:
        """The node at a path, and the path in keys and positions."""
        node = self.tree
        found: Steps = ()
        for step in steps:
            if id(node) in self.pending:
                self.replace(node, found)
            if node.value is INVALID:
                break
            if not isinstance(node.value, (dict, list)):
                raise _FailureError(f"'{_show(found)}' is a plain value, it has no '{step}'")
            try:
                key = step if isinstance(step, int) else key_of(node.value, step)
                node = node.value[key]
            except (KeyError, IndexError):
                known = map(str, node.value) if isinstance(node.value, dict) else ()
                place = f"in '{_show(found)}'" if found else "at the top level"
                raise _FailureError(f"there is no '{step}' {place}.{did_you_mean(str(step), known)}") from None
            found = (*found, key)
        return node, found

    def limit(self, origin: Origin, depth: int) -> None:
        self.count += 1
        if self.count > MAX_NODES or depth > MAX_DEPTH:
            limit = f"{MAX_NODES} values" if self.count > MAX_NODES else f"{MAX_DEPTH} levels"
            raise ConfigError([Problem(origin, "", f"references unfold this config into more than {limit}")])


def _show(steps: Steps) -> str:
    return reduce(join, steps, "")


def _closing(text: str, start: int) -> int:
    """The position of the brace that closes the one before `start`."""
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += 1 if brace[0] == "${" else -1
        if depth == 0:
            return brace.start()
    raise _FailureError("a '}' is missing")


def _in_text(value: Any) -> Any:
    """A value as a part of a text, spelt as in YAML."""
    if isinstance(value, (dict, list)):
        raise _FailureError("a mapping or list cannot stand inside a text")
    return value if value is INVALID else spelt(value)


def _environment(expression: str) -> str:
    resolver, _, arguments = expression.partition(":")
    name, comma, default = (part.strip() for part in arguments.partition(","))
    if resolver.strip() != "oc.env":
        raise _FailureError(f"there is no resolver '{resolver.strip()}', a config runs no code; write ${{key.path}}")
    allowed = {part.strip() for part in os.environ.get("SGM_CONFIG_ENV", "").split(",")} - {""}
    if name not in allowed:
        setting = ",".join(sorted({*allowed, name}))
        raise _FailureError(
            f"the environment variable {name} is not open to configs, whose values are saved with a run. "
            f"To open it, set SGM_CONFIG_ENV={setting}"
        )
    if name not in os.environ and not comma:
        raise _FailureError(
            f"the environment variable {name} is not set; a default may follow: ${{oc.env:{name},default}}"
        )
    return os.environ.get(name, default)
