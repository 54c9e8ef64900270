"""A checked component that is not built yet, and perhaps never will be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sgm_core.config.build import build_plan
from sgm_core.config.check import Checker
from sgm_core.config.plan import Call
from sgm_core.config.recipes import remember
from sgm_core.config.schema import Type
from sgm_core.config.tree import Node
from sgm_core.registry import Entry


@dataclass(frozen=True, eq=False)
class Unbuilt:
    """Stands for a component where a config asks for its outputs alone. Its module was not imported.

    `to_config` gives what it will be built from.

    Attributes:
        node, type, path: the place in the config.
        plan: the outcome of the check, from source.
        entries: the components in it.
    """

    node: Node
    type: Type
    path: str
    plan: Call
    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        remember(self, self.plan)

    @property
    def name(self) -> str:
        """The name of its class."""
        assert self.plan.entry is not None
        return self.plan.entry.value.rpartition(":")[2]

    def build(self) -> Any:
        """Import and construct it: equal objects, however often.

        Raises:
            ConfigError: it does not take what its source seemed to take.
            BuildError: a constructor refused its arguments.
        """
        checker = Checker()
        plan = checker.check(self.node, self.type, self.path)
        checker.problems.raise_if_any()
        assert isinstance(plan, Call)
        plan.frozen = True
        return build_plan(plan)
