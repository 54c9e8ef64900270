"""What plugins propose for a config: each sees it as it was written, and no two may mean the same key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from sgm_core.config.api import config_from
from sgm_core.config.tree import ConfigError, Node, Origin, from_plain, plain, split_path
from sgm_core.errors import SgmError, tell
from sgm_core.hooks.loading import Plugin


class Patch(NamedTuple):
    """One value that a plugin proposes; its origin names the plugin."""

    path: str
    value: Node

    def __str__(self) -> str:
        value = repr(plain(self.value))
        return f"{self.value.origin} proposes {self.path} = {value if len(value) < 80 else value[:79] + '…'}"


def agreed(answers: Iterable[tuple[Plugin, Mapping[str, Any]]], overrides: Sequence[str]) -> list[Patch]:
    """The patches of all plugins, to apply below the overrides of the command line. Where one of these sets the same
    key, the user is told. SgmError names all pairs of patches that contradict each other."""
    patches = [
        Patch(path, from_plain(value, Origin(str(plugin))))
        for plugin, found in answers
        for path, value in found.items()
    ]
    kept = []
    for patch in patches:
        touching = {text: path for text in overrides if _touch(path := text.partition("=")[0], patch.path)}
        for text in touching:
            tell(f"note: '{text}' of the command line is used; {patch}")
        # an override that sets a part of the patch leaves the rest of it
        if all(len(split_path(path)) > len(split_path(patch.path)) for path in touching.values()):
            kept.append(patch)
    contradictions = [f"{one}\n{other}" for one, other in combinations(kept, 2) if _touch(one.path, other.path)]
    if contradictions:
        advice = "Set the key on the command line, or leave a plugin out (--plugins)."
        raise SgmError("\n".join(["plugins contradict each other:", *contradictions, advice]))
    return kept


def _touch(one: str, other: str) -> bool:
    """Whether two paths are the same, or one is inside the other. A text that is no path, which reading the config
    has reported, is in none."""
    try:
        return all(a == b for a, b in zip(split_path(one), split_path(other), strict=False))
    except ValueError:
        return False


def accepted(result: Any) -> Mapping[str, Any]:
    """The answer of one plugin. ValueError unless it is plain values by path, none inside another."""
    if not isinstance(result, Mapping) or not all(isinstance(path, str) for path in result):
        raise ValueError(f"give values by path, {{'trainer.max_steps': 10}}, not a {type(result).__name__}")
    try:
        config_from(dict(result), "patches").to_yaml()
    except ConfigError as error:
        raise ValueError(str(error)) from error
    for path in result:
        split_path(path)
    for one, other in combinations(result, 2):
        if _touch(one, other):
            raise ValueError(f"it sets {one} and {other}, of which one is inside the other")
    return dict(result)
