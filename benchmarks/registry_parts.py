"""The classes that every contender of `registry.py` builds: constructors as cheap as they can be.

No `from __future__ import annotations`: some peers read the hints as they stand.
"""

from typing import Any, Literal


class Leaf:
    """Twelve parameters of the types that configs have."""

    def __init__(
        self,
        width: int,
        scale: float,
        label: str | None,
        enabled: bool = True,
        levels: list[int] | None = None,
        weights: list[float] | None = None,
        mode: Literal["linear", "cosine"] = "linear",
        name: str = "",
        limits: dict[str, float] | None = None,
        depth: int = 1,
        rate: float = 0.0,
        seed: int | None = None,
    ) -> None:
        self.given = (width, scale, label, enabled, levels, weights, mode, name, limits, depth, rate, seed)


class Group:
    """What holds the siblings."""

    def __init__(self, parts: list[Leaf]) -> None:
        self.parts = parts


def arguments(number: int) -> dict[str, Any]:
    """The first so many arguments of a leaf, in containers of their own."""
    everything = {
        "width": 8,
        "scale": 0.5,
        "label": "a",
        "enabled": False,
        "levels": [1, 2, 3],
        "weights": [0.1, 0.2],
        "mode": "cosine",
        "name": "n",
        "limits": {"low": 0.0, "high": 1.0},
        "depth": 2,
        "rate": 0.25,
        "seed": 3,
    }
    return dict(list(everything.items())[:number])
