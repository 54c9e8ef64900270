"""What plugins propose for a config: each sees it as it was written, and no two may mean the same key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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

    @property
    def steps(self) -> list[str]:
        return split_path(self.path)

    def touches(self, steps: list[str]) -> bool:
        """Whether the path of these steps is this one's, or one is inside the other."""
        shorter = min(len(self.steps), len(steps))
        return self.steps[:shorter] == steps[:shorter]

    def __str__(self) -> str:
        value = repr(plain(self.value))
        return f"{self.value.origin} proposes {self.path} = {value if len(value) < 80 else value[:79] + '…'}"


def agreed(answers: Iterable[tuple[Plugin, dict[str, Any]]], overrides: Iterable[str]) -> list[Patch]:
    """The patches to apply below the overrides. Where an override sets the same key, the user is told.

    Args:
        answers: what each plugin proposes.
        overrides: of the command line.

    Raises:
        SgmError: two of them contradict each other; all such pairs are named.
    """
    patches = [
        Patch(path, from_plain(value, Origin(str(plugin))))
        for plugin, found in answers
        for path, value in found.items()
    ]
    user = [(text, steps) for text in overrides if (steps := _steps_of(text))]
    kept = []
    for patch in patches:
        touching = [(text, steps) for text, steps in user if patch.touches(steps)]
        for text, _ in touching:
            tell(f"note: '{text}' of the command line is used; {patch}")
        if all(len(steps) > len(patch.steps) for _, steps in touching):  # it sets a part of the patch at most
            kept.append(patch)
    contradictions = [(one, other) for one, other in combinations(kept, 2) if one.touches(other.steps)]
    if contradictions:
        lines = [f"{one}\n{other}" for one, other in contradictions]
        advice = "Set the key on the command line, or leave a plugin out (--plugins)."
        raise SgmError("\n".join(["plugins contradict each other:", *lines, advice]))
    return kept


def _steps_of(override: str) -> list[str]:
    """The path that an override sets, or nothing: reading the config has said that it is none."""
    try:
        return split_path(override.partition("=")[0])
    except ValueError:
        return []


def accepted(result: Any) -> dict[str, Any]:
    """The answer of one plugin.

    Raises:
        ValueError: not plain values by path, or two of them contradict each other.
    """
    if not isinstance(result, Mapping) or not all(isinstance(path, str) for path in result):
        raise ValueError(f"give values by path, {{'trainer.max_steps': 10}}, not a {type(result).__name__}")
    found = dict(result)
    try:
        config_from(found, "patches").to_yaml()
    except ConfigError as error:
        raise ValueError(str(error)) from error
    patches = [Patch(path, Node(value, Origin(""))) for path, value in found.items()]
    for one, other in combinations(patches, 2):
        if one.touches(other.steps):
            raise ValueError(f"it sets {one.path} and {other.path}, of which one is inside the other")
    for patch in patches:
        split_path(patch.path)
    return found
