"""A component while it is written: the mapping so far, the comments that wait for its next key, and its gaps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgm_core.config.tree import MISSING, Node, Origin, join, leaves, plain
from sgm_core.config.yaml import scalar_yaml
from sgm_core.registry import did_you_mean
from sgm_plugins.tools.convert.document import Block, Item
from sgm_plugins.tools.convert.legacy import Unreadable

if TYPE_CHECKING:
    from sgm_plugins.tools.convert.rewriter import Action, Rewriter

LONGEST_VALUE = 100
"""Characters of an old value that a comment shows."""


def place(origin: Origin) -> str:
    """The file and line of an old value, as comments name it."""
    return f"{Path(origin.source).name}:{origin.line}"


def first_line(message: str) -> str:
    return message.partition("\n")[0]


def given(node: Node) -> dict[str, Node]:
    """The keys and values of a mapping; of anything else none."""
    return {str(key): child for key, child in node.value.items()} if isinstance(node.value, dict) else {}


def target_of(node: Node) -> str:
    """The class that a node names; nothing where it names none."""
    target = given(node).get("target")
    return target.value if target is not None and isinstance(target.value, str) else ""


def shown(node: Node) -> str:
    """The value, for a comment."""
    target = target_of(node)
    if target:
        return target
    size = sum(1 for _ in leaves(node))
    return as_text(plain(node) if size <= LONGEST_VALUE else f"{size} values")


def as_text(value: Any) -> str:
    """A value of the new config, or a plain one of the old, for a comment."""
    if isinstance(value, Unreadable):
        return str(value)
    if isinstance(value, Block):
        text = str(value.plain())
    else:
        text = str(value) if isinstance(value, (dict, list)) else scalar_yaml(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


@dataclass
class Scope:
    """One component. `kept` are old parameters that its last step deals with, see `Rule.finish`."""

    rewriter: Rewriter
    path: str
    node: Node
    block: Block = field(default_factory=Block)
    waiting: list[str] = field(default_factory=list)
    kept: dict[str, Node] = field(default_factory=dict)

    # --- what is written -------------------------------------------------------------------------------------------

    def put(self, key: str, value: Any, node: Node | None = None, note: str = "") -> None:
        """Write a key, with the comments that its old line had. What could not be read there is a gap."""
        above, beside = ([], "") if node is None else self.rewriter.comments.take(node.where)
        texts = [text for text in (beside, note) if text]
        origin = self.node.where if node is None else node.where
        if node is not None:
            value = self._readable(key, value, node, texts)
        self.block.items[key] = Item(value, [*self.waiting, *above], "; ".join(texts), origin)
        self.waiting = []

    def _readable(self, key: str, value: Any, node: Node, texts: list[str]) -> Any:
        """The value with `???` for all in it that could not be read."""
        if isinstance(value, Unreadable):
            texts.append(f"was {value} ({place(node.origin)}): {first_line(value.why)}")
            self.rewriter.gap(node.origin, self.path_of(key), f"{value}: {value.why}")
            return MISSING
        if isinstance(value, dict):
            return {name: self._readable(key, child, node, texts) for name, child in value.items()}
        return [self._readable(key, child, node, texts) for child in value] if isinstance(value, list) else value

    def say(self, text: str) -> None:
        """A comment before the next key."""
        self.waiting.append(text)

    def take(self, node: Node) -> None:
        """The old comments on a line that has no counterpart, before the next key."""
        above, beside = self.rewriter.comments.take(node.where)
        self.waiting += [*above, *([beside] if beside else [])]

    def keep(self, key: str, node: Node) -> None:
        """An old parameter that `finish` deals with."""
        self.take(node)
        self.kept[key] = node

    def drop(self, key: str, node: Node, why: str) -> None:
        """Say what is left out, and why; the old comments on it stay."""
        self.take(node)
        self.say(f"left out {key}: {shown(node)} ({why})")

    def close(self) -> None:
        """What is still to be said goes below the last key."""
        self.block.below += self.waiting
        self.waiting = []

    # --- what cannot be converted ----------------------------------------------------------------------------------

    def problem(self, key: str, node: Node, message: str) -> None:
        """A gap of which no key is left: a comment."""
        self.take(node)
        self.say(f"{MISSING} {key}: {shown(node)} ({place(node.where)}: {first_line(message).removesuffix('.')})")
        self.rewriter.gap(node.where, self.path_of(key), message)

    def missing(self, key: str, node: Node, message: str, was: str = "") -> None:
        """A gap whose key is one of ours: `???`."""
        printed = was or shown(node)
        reason = first_line(message).removeprefix(f"unknown target '{printed}': ").removesuffix(".")
        self.put(key, MISSING, None, f"was {printed} ({place(node.where)}): {reason}")
        self.block.items[key].origin = node.where
        self.rewriter.gap(node.where, self.path_of(key), message if printed in message else f"{printed}: {message}")

    # --- what is read ----------------------------------------------------------------------------------------------

    def pairs(self, key: str, node: Node | None) -> list[tuple[str, Node]]:
        """The keys and values of a mapping; anything else but nothing is a gap."""
        if node is None or node.value is None:
            return []
        if not isinstance(node.value, dict):
            self.problem(key, node, "a mapping was expected")
        return list(given(node).items())

    def listed(self, key: str, node: Node) -> list[Node]:
        """The items of a list; anything else but nothing is a gap."""
        if node.value is not None and not isinstance(node.value, list):
            self.problem(key, node, "a list was expected")
        return node.value if isinstance(node.value, list) else []

    def path_of(self, key: str) -> str:
        return join(self.path, key)

    def params(self, node: Node, actions: Mapping[str, Action], key: str, any_param: bool = False) -> None:
        """Each old parameter by its action."""
        if not isinstance(node.value, dict):
            self.problem(key, node, "a mapping of parameters was expected")
            return
        for name, child in given(node).items():
            action = actions.get(name)
            if action is not None:
                action(self, name, child)
            elif any_param:
                self.put(name, plain(child), child)
            else:
                hint = did_you_mean(name, actions)
                self.problem(join(key, name), child, f"this parameter is not known.{hint}")
