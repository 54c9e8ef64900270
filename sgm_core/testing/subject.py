"""The component under test: how it is built, and how a broken promise is reported."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from sgm_core.config.build import build_plan
from sgm_core.config.check import Checker
from sgm_core.config.schema import Component, Signature, signature
from sgm_core.config.tree import Origin, from_plain
from sgm_core.kinds import KINDS
from sgm_core.registry import check_kind, index
from sgm_core.testing.stand_ins import STAND_INS


class BrokenContract(AssertionError):  # noqa: N818 - it reads as what pytest prints it for
    """A component does not keep what its role promises; the message says which promise, what was seen, what to do."""


class Subject:
    """A component, by name or as the class or function itself, and the arguments that it is built with.

    Raises:
        RegistryError: unknown kind or name.
        ValueError: neither a name nor something that can be called.
    """

    def __init__(self, kind: str, component: str | Callable[..., Any], params: Mapping[str, Any]) -> None:
        check_kind(kind)
        if not isinstance(component, str) and not callable(component):
            raise ValueError(f"{component!r} cannot be checked: give a registered name, or the class or function")
        self.kind = KINDS[kind]
        self.target: Any = index.resolve(kind, component) if isinstance(component, str) else component
        self.name = component if isinstance(component, str) else getattr(component, "__name__", repr(component))
        self.params = dict(params)

    def __str__(self) -> str:
        return f"{self.kind.noun} '{self.name}'"

    @property
    def schema(self) -> Signature:
        """What a config may give."""
        return signature(self.target, self.kind.late)

    def build(self, *, seed: int = 0, **changes: Any) -> Any:
        """Build it as a config would, from its schema, with weights drawn from this seed.

        What is required, not given, and a plain part of the kit's own can stand for (a discretization, a weighting)
        is filled in. Each build gets parts of its own.

        Raises:
            ConfigError: the arguments do not fit the schema.
            BuildError: the constructor refused them.
        """
        filled = {
            name: STAND_INS[parameter.type.kind]()
            for name, parameter in self.schema.parameters.items()
            if parameter.required and isinstance(parameter.type, Component) and parameter.type.kind in STAND_INS
        }
        tree = from_plain(copy.deepcopy({**filled, **self.params, **changes}), Origin("check_component"))
        checker = Checker()
        late = bool(self.kind.late)
        plan = checker.call(tree, tree.value, self.target, self.schema, "", what=str(self), late=late)
        checker.problems.raise_if_any()
        torch.manual_seed(seed)
        return build_plan(plan)

    def expect(self, kept: bool, promise: str, seen: str, advice: str) -> None:
        """Raise BrokenContract unless the promise is kept."""
        if not kept:
            raise BrokenContract(f"{self}: {promise}.\nSeen: {seen}.\nTo do: {advice}.")

    @contextmanager
    def trying(self, promise: str, advice: str) -> Iterator[None]:
        """Whatever the component raises in here breaks the promise."""
        try:
            yield
        except BrokenContract:
            raise
        except Exception as error:
            seen = f"{type(error).__name__}: {error}"
            raise BrokenContract(f"{self}: {promise}.\nSeen: {seen}.\nTo do: {advice}.") from error
