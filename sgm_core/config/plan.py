"""A checked config: what is called with what, to build from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sgm_core.config.schema import Signature
from sgm_core.config.tree import Origin
from sgm_core.registry import Entry


@dataclass(slots=True)
class Value:
    """A finished value; `name` is what a config has for a member of an Enum or a dtype."""

    value: Any
    name: str = ""


@dataclass(slots=True)
class Items:
    """A list, made by `make` from its items."""

    items: list[Plan]
    make: Callable[[list[Any]], Any] = list


@dataclass(slots=True)
class Fields:
    """A dict; `keys` are the members of an Enum that its keys are names of."""

    fields: dict[Any, Plan]
    keys: dict[Any, Any] = field(default_factory=dict)


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
    schema: Signature = field(default=Signature({}))
    spelling: str = ""
    """How the component is called in the config, perhaps with its distribution."""
    short: bool = False
    """The config has the bare name instead of a mapping."""
    own_draws: bool = False
    """Built with random numbers of its own: see `FixedWeights`."""
    complete: Callable[[], Call] | None = None
    """Of a plan that was read from source: gives the one to build from, with the imports."""
    short_for: str = ""
    """The config has only this argument, and a flag beside it that asked for the call."""
    recipe: Call | None = field(default=None, repr=False, compare=False)
    """This plan without the objects that Python code put into it, once it was built with some: see `recipes`."""

    @property
    def name(self) -> str:
        return self.entry.name if self.entry else getattr(self.target, "__name__", str(self.target))

    @property
    def written(self) -> Plan:
        """What the config has: the call itself, but where it is written short."""
        return self.arguments[self.short_for] if self.short_for else self


Plan = Value | Items | Fields | Call


def walk(plan: Plan) -> Iterator[Plan]:
    """A plan, and every plan in it."""
    yield plan
    match plan:
        case Items(items, _):
            yield from (inner for item in items for inner in walk(item))
        case Fields(parts) | Call(arguments=parts):
            yield from (inner for part in parts.values() for inner in walk(part))


def rebuilt(plan: Plan, change: Callable[[Plan], Plan]) -> Plan:
    """A copy of a plan, with its direct parts changed; a value is itself."""
    match plan:
        case Items(items, make):
            return Items([change(item) for item in items], make)
        case Fields(fields, keys):
            return Fields({key: change(item) for key, item in fields.items()}, keys)
        case Call():
            return replace(plan, arguments={name: change(item) for name, item in plan.arguments.items()})
    return plan


def plain_plan(plan: Plan) -> Any:
    """The config of what a plan would build; an object that Python code gave stands for itself."""
    match plan:
        case Items(items, _):
            return [plain_plan(item) for item in items]
        case Fields(fields):
            return {key: plain_plan(item) for key, item in fields.items()}
        case Call():
            parts = ((name, part.written if isinstance(part, Call) else part) for name, part in plan.arguments.items())
            data = {name: plain_plan(part) for name, part in parts}
            if plan.entry is None:
                return data
            return plan.spelling if plan.short and not data else {"use": plan.spelling, **data}
    return plan.name or (str(plan.value) if isinstance(plan.value, Path) else plan.value)
