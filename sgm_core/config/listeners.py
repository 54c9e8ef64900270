"""Who takes part when configs are read and components are built: a session puts its plugins here.

The config system knows no sessions. Without one both lists are empty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from sgm_core.config.tree import Node
from sgm_core.registry import Entry

composed: list[Callable[[Node, list[str]], Iterable[tuple[str, Node]]]] = []
"""Asked when a config was read: (merged tree, overrides) -> values by path, to put below the overrides."""

built: list[Callable[[Any, Entry, str], None]] = []
"""Told of every component, with its entry and its path in the config, once it was built."""
