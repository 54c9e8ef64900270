"""What the kit needs to know of a role."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from sgm_core.testing import trees
from sgm_core.testing.subject import Subject


class Contract(ABC):
    """The promises of one kind, about one component.

    The keywords of a subclass's constructor are what a test may give as `inputs`. `call` is one use of the component
    (deterministic under a seed; a module in eval mode, its gradients on), with which the promises of every component
    are checked; `check` has those of the kind.
    """

    continues: ClassVar[bool] = False
    """Whether a use goes on from the loaded state, so that what it gives differs from that of the first use."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.given: dict[str, Any] = {}
        """What the component is called with, by name: tensors in containers."""

    def inputs(self) -> Any:
        """What is given, each time anew."""
        return trees.clone(self.given)

    def call(self, component: Any, inputs: Any) -> Any:
        """Use the component once; what it gives, in containers."""
        return component(*inputs.values())

    @abstractmethod
    def check(self) -> None:
        """Raise BrokenContract for a promise of the role that is not kept."""


class BatchContract(Contract):
    """A role that is used with a batch, whose entries a test may name as it likes."""

    def __init__(self, subject: Subject, **batch: Any) -> None:
        super().__init__(subject)
        self.given = batch


class Constructed(Contract):
    """A role whose use the kit cannot imitate: the component is built and no more."""

    def call(self, component: Any, inputs: Any) -> Any:
        return {}

    def check(self) -> None:
        """Nothing beyond what is true of every component."""
