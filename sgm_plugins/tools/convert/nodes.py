"""The values of old files: looked into, and shown in comments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sgm_core.config.tree import Node, Origin, leaves, plain
from sgm_core.config.yaml import scalar_yaml
from sgm_plugins.tools.convert.document import Block
from sgm_plugins.tools.convert.legacy import Unreadable

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
