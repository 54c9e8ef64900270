"""A checked config: what is called with what, to build from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sgm_core.config.schema import Signature
from sgm_core.config.tree import Origin
from sgm_core.registry import Entry

NO_PARAMETERS = Signature({})


@dataclass(slots=True)
class Value:
    """A finished value."""

    value: Any


@dataclass(slots=True)
class Items:
    """A list, made by `make` from its items."""

    items: list[Plan]
    make: Callable[[list[Any]], Any] = list


@dataclass(slots=True)
class Fields:
    """A dict."""

    fields: dict[Any, Plan]


@dataclass
class Call:
    """A call of `target`, the arguments in the order of its signature: the order of the keys in a file must not
    change the weights that are drawn. A late one is handed over as a callable that takes the missing arguments."""

    target: Any
    arguments: dict[str, Plan]
    origin: Origin
    path: str
    late: bool = False
    entry: Entry | None = None
    schema: Signature = NO_PARAMETERS
    spelling: str = ""
    """How the component is called in the config, perhaps with its distribution."""
    short: bool = False
    """The config has the bare name instead of a mapping."""
    frozen: bool = False
    """Built with random numbers of its own: see `sgm_core.frozen`."""
    recipe: Call | None = field(default=None, repr=False, compare=False)
    """This plan without the objects that Python code put into it, once it was built with some: see `recipes`."""

    @property
    def name(self) -> str:
        return self.entry.name if self.entry else getattr(self.target, "__name__", str(self.target))


Plan = Value | Items | Fields | Call
