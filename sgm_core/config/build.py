"""A plan to objects, leaves first."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from sgm_core.config import listeners
from sgm_core.config.plan import Call, Fields, Items, Plan, Value, plain_plan, walk
from sgm_core.config.recipes import recipe_of, remember
from sgm_core.errors import SgmError

FORMULAS = {
    "denoisers", "discretizations", "guiders", "losses", "samplers", "scalings", "sigma_samplers", "weightings",
}  # fmt: skip
"""The kinds whose components have no weights, unless a part in them has."""


class BuildError(SgmError):
    """A constructor refused its arguments; the message says which one, where it is written, and why."""


class Planned:
    """A part of a config that is built when it is called, see `Lazy`: at its place there, which errors name.

    Attributes:
        keywords: the arguments that the config gives to a part which waits for more (an optimizer, the trainer); what
            is in them is built already. None for a part that waits for nothing: nothing in it is built.
    """

    def __init__(self, plan: Call) -> None:
        self.plan = plan
        self.keywords = None if plan.own_draws else _arguments(plan)
        remember(self, plan)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        remember(self, self.plan)  # a copy is built from the same

    @property
    def spec(self) -> Any:
        return plain_plan(self.plan)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        plan = self.plan.complete() if self.plan.complete else self.plan
        return _call(plan, args, kwargs, self.keywords)


def build_plan(plan: Plan) -> Any:
    """Construct what a checked plan describes. BuildError if a constructor raised."""
    match plan:
        case Value(value):
            return value
        case Items(items, make):
            return make([item.value if type(item) is Value else build_plan(item) for item in items])
        case Fields(fields, keys):
            return {keys.get(key, key): build_plan(item) for key, item in fields.items()}
        case Call():
            return Planned(plan) if plan.late else _call(plan)


@contextmanager
def _kept_random_state() -> Iterator[Callable[[], bool]]:
    """Afterwards the random state (of the CPU) is what it was before. Gives a function: is it that at present?"""
    import numpy as np
    import torch

    generator = torch.default_generator  # torch.manual_seed would touch the devices' generators too
    python, numpy, state = random.getstate(), np.random.get_state(), generator.get_state()

    def unchanged() -> bool:
        now: Any = np.random.get_state()
        same = random.getstate() == python and torch.equal(generator.get_state(), state)
        return same and all(np.array_equal(a, b) for a, b in zip(now, numpy, strict=True))

    try:
        yield unchanged
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        generator.set_state(state)


@contextmanager
def _random_numbers_of(plan: Call) -> Iterator[None]:
    """Inside, what is drawn (on the CPU) depends on what the config says of this part; outside nothing was drawn."""
    import numpy as np
    import torch

    text = json.dumps(plain_plan(plan), default=lambda given: type(given).__name__)
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
    with _kept_random_state():
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        yield


def _arguments(plan: Call) -> dict[str, Any]:
    """The arguments of a call, formulas first: a mistake in one is reported before weights are allocated."""
    early: dict[str, Any] = {}
    parts = [key for key, value in plan.arguments.items() if type(value) is not Value]
    formulas = [key for key in parts if _is_formula(plan.arguments[key])]
    for key in formulas if len(formulas) < len(parts) else []:
        with _kept_random_state() as unchanged:
            built = build_plan(plan.arguments[key])
            if unchanged():  # one that draws is built again in its turn: the order of draws decides the weights
                early[key] = built
    return {
        key: early[key] if key in early else value.value if type(value) is Value else build_plan(value)
        for key, value in plan.arguments.items()
    }


def _is_formula(plan: Plan) -> bool:
    """Whether nothing in a plan has weights."""
    calls = (part for part in walk(plan) if isinstance(part, Call))
    return all(call.entry is not None and call.entry.kind in FORMULAS and not call.late for call in calls)


def _call(
    plan: Call,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    keywords: dict[str, Any] | None = None,
) -> Any:
    """Call the target of a plan with its arguments (`keywords`, if they are built), and with others over them."""
    with _random_numbers_of(plan) if plan.own_draws else nullcontext():
        arguments = _arguments(plan) if keywords is None else keywords
        try:
            built = plan.target(*args, **{**arguments, **(kwargs or {})})
        except (Exception, SystemExit) as error:  # whatever a constructor raises is about this part of the config
            raise _refusal(_place(plan), error) from error
    remember(built, plan)
    if plan.entry is not None:
        for tell in listeners.built:
            tell(built, plan.entry, plan.path)
    return built


def refusal_by(part: Any, error: ValueError) -> ValueError:
    """What a part refused after it was built: with the line of the config where it is written, if one built it."""
    recipe = recipe_of(part)
    return error if recipe is None else _refusal(_place(recipe), error)


def _place(plan: Call) -> str:
    return f"{plan.origin} {plan.path}".rstrip() + f" ({plan.name})"


def _refusal(place: str, error: BaseException) -> BuildError:
    if isinstance(error, BuildError):  # of a part that this one was building: it has its own place
        return error
    reason = str(error) if isinstance(error, ValueError) and str(error) else f"{type(error).__name__}: {error}"
    return BuildError(f"{place}: {reason}")
