"""What becomes of an old parameter: the actions that the tables of rules are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sgm_core.config.tree import Node, plain
from sgm_plugins.tools.convert.nodes import shown, target_of
from sgm_plugins.tools.convert.rewriter import Action, Scope

SENTINELS = ("__is_first_stage__", "__is_unconditional__")
"""What old configs write for "none"."""


def keep(to: str = "", *, values: Mapping[Any, Any] | None = None, note: str = "") -> Action:
    """The value as it is, perhaps under another name; `values` translates some of them, with the note."""

    def act(scope: Scope, key: str, node: Node) -> None:
        known = values is not None and not isinstance(node.value, (dict, list)) and node.value in values
        if known and values is not None:
            scope.put(to or key, values[node.value], node, f"was {node.value}{note and f': {note}'}")
        else:
            scope.put(to or key, plain(node), node)

    return act


def part(to: str, kind: str, *, nothing: Iterable[str] = ()) -> Action:
    """A component in a component; a target in `nothing` means that there is none."""

    def act(scope: Scope, key: str, node: Node) -> None:
        if node.value is None or (isinstance(node.value, str) and node.value in SENTINELS):
            if node.value is not None:
                scope.say(f"{key} was {node.value}: none")
            return
        target = target_of(node)
        if target in nothing:
            scope.say(f"{key} was {target}: none")
            return
        scope.put(to, scope.rewriter.component(node, kind, scope.path_of(key)), node)

    return act


def parts(to: str, kind: str) -> Action:
    """A list of components."""

    def act(scope: Scope, key: str, node: Node) -> None:
        if not isinstance(node.value, list):
            scope.problem(key, node, "a list of targets was expected")
            return
        made = [scope.rewriter.component(item, kind, f"{scope.path_of(key)}[{i}]") for i, item in enumerate(node.value)]
        scope.put(to, made, node)

    return act


def later(scope: Scope, key: str, node: Node) -> None:
    """For the last step of the rule, `finish`, which finds it in `scope.kept`."""
    scope.keep(key, node)


def drop(why: str) -> Action:
    """Left out, with a comment."""

    def act(scope: Scope, key: str, node: Node) -> None:
        scope.drop(key, node, why)

    return act


def negate(to: str) -> Action:
    """A switch that is written the other way round here."""

    def act(scope: Scope, key: str, node: Node) -> None:
        if not isinstance(node.value, bool):
            scope.missing(to, node, f"{key}: true or false was expected")
            return
        scope.put(to, not node.value, node, f"was {key}: {str(node.value).lower()}")

    return act


def must(*values: Any, why: str) -> Action:
    """Left out if it is one of the values, which is what ours always does; an error otherwise."""

    def act(scope: Scope, key: str, node: Node) -> None:
        if plain(node) in values:
            scope.drop(key, node, why)
        else:
            scope.problem(key, node, f"{key}: {shown(node)} has no counterpart ({why})")

    return act


def inline(params: Mapping[str, Action]) -> Action:
    """A mapping whose keys are parameters of the component itself here."""

    def act(scope: Scope, key: str, node: Node) -> None:
        scope.take(node)
        scope.params(node, params, key)

    return act


def keeps(names: str) -> dict[str, Action]:
    """Several parameters, names in one text, that are the same here."""
    return {name: keep() for name in names.split()}
