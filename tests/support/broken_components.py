"""Components that break one promise each, and the message that says so."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from sgm_core.kinds import KINDS
from sgm_core.testing import BrokenContract, check_component

X, T = torch.linspace(-1, 1, 2 * 8 * 8).view(2, 1, 8, 8), torch.tensor([0.5, 3.0])
CLASSES = {"cls": torch.tensor([3, 1, 2])}
FEATURES = {"features": torch.ones(3, 4)}


@dataclass
class Case:
    kind: str
    component: Any
    inputs: Mapping[str, Any] | None
    params: Mapping[str, Any]
    message: str

    def check(self) -> None:
        """The kit finds it, and says what is wrong with it."""
        with pytest.raises(BrokenContract, match=self.message) as error:
            check_component(self.kind, self.component, inputs=self.inputs, **self.params)
        assert str(error.value).startswith(f"{KINDS[self.kind].noun} '{self.component.__name__}': ")
        assert re.search(r"^Seen: .", str(error.value), re.MULTILINE)
        assert re.search(r"^To do: .", str(error.value), re.MULTILINE)


class Cases(list[Any]):
    """The broken components of a test file, collected by decorators."""

    def __call__(
        self, kind: str, message: str, inputs: Mapping[str, Any] | None = None, **params: Any
    ) -> Callable[[Any], Any]:
        def add(component: Any) -> Any:
            self.append(pytest.param(Case(kind, component, inputs, params, message), id=component.__name__))
            return component

        return add
