"""A plan to objects, leaves first."""

from __future__ import annotations

import functools
import hashlib
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sgm_core.config import listeners
from sgm_core.config.plan import Call, Fields, Items, Plan, Value
from sgm_core.config.recipes import recipe_of, remember
from sgm_core.errors import SgmError

if TYPE_CHECKING:
    Partial = functools.partial[Any]
else:
    Partial = functools.partial


class BuildError(SgmError):
    """A constructor refused its arguments; the message says which one, where it is written, and why."""


class Late(Partial):
    """A component that is called later, with what is not known yet. An error then still says where it is written."""

    place: str

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        try:
            made = super().__call__(*args, **kwargs)
        except (Exception, SystemExit) as error:
            raise _refusal(self.place, error) from error
        recipe = recipe_of(self)
        if recipe is not None:  # a copy has none
            remember(made, recipe)
            _observe(made, recipe)
        return made


def build_plan(plan: Plan) -> Any:
    """Construct what a checked plan describes.

    Raises:
        BuildError: a constructor raised.
    """
    match plan:
        case Value(value):
            return value
        case Items(items, make):
            return make([item.value if type(item) is Value else build_plan(item) for item in items])
        case Fields(fields):
            return {key: item.value if type(item) is Value else build_plan(item) for key, item in fields.items()}
        case Call():
            if not plan.frozen:
                return _call(plan)
            with _random_numbers_of(plan):
                return _call(plan)


@contextmanager
def _random_numbers_of(plan: Call) -> Iterator[None]:
    """Inside, what is drawn (on the CPU) depends on what the config says of this part; outside nothing was drawn."""
    import numpy as np
    import torch

    from sgm_core.config.to_config import plain_plan

    text = json.dumps(plain_plan(plan), default=lambda given: type(given).__name__)
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
    generator = torch.default_generator  # torch.manual_seed would touch the devices' generators too
    states = random.getstate(), np.random.get_state(), generator.get_state()
    try:
        random.seed(seed)
        np.random.seed(seed)
        generator.manual_seed(seed)
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        generator.set_state(states[2])


def _call(plan: Call) -> Any:
    arguments = {
        key: value.value if type(value) is Value else build_plan(value) for key, value in plan.arguments.items()
    }
    if plan.late:
        late = Late(plan.target, **arguments)
        late.place = _place(plan)
        remember(late, plan)
        return late
    try:
        built = plan.target(**arguments)
    except (Exception, SystemExit) as error:  # whatever a constructor raises is about this part of the config
        raise _refusal(_place(plan), error) from error
    remember(built, plan)
    _observe(built, plan)
    return built


def _observe(built: Any, plan: Call) -> None:
    if plan.entry is not None:
        for tell in listeners.built:
            tell(built, plan.entry, plan.path)


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
