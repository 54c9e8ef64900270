"""Renaming by tables of prefixes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

Names = dict[str, str]
"""Ours -> theirs, of modules: `time_embed.0` -> `time_embedding.linear_1`. What is below keeps its name."""


def inside(ours: str, theirs: str, names: Mapping[str, str]) -> Names:
    """A table within a module."""
    return {f"{ours}.{a}": f"{theirs}.{b}" for a, b in names.items()}


def backwards(names: Mapping[str, str]) -> Names:
    """Theirs -> ours."""
    assert len(set(names.values())) == len(names)
    return {b: a for a, b in names.items()}


def renamed(keys: Iterable[str], names: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The new name of each key, by the longest module in it that the table has; and the keys that it has none of."""
    found: dict[str, str] = {}
    unknown: list[str] = []
    for key in keys:
        words = key.split(".")
        for n in range(len(words), 0, -1):
            start = ".".join(words[:n])
            if start in names:
                found[key] = names[start] + key[len(start) :]
                break
        else:
            unknown.append(key)
    return found, unknown
