"""The section `nonfinite` of a config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge


@dataclass
class Guarding:
    """What is done about a loss or a gradient that is not finite.

    Attributes:
        check: look before each optimizer step and stop before the weights change; waits once a step for the device.
        skip: how many such steps of the run are left out, each with its batch saved, before one stops it.
    """

    resumable: ClassVar[bool] = True

    check: bool = True
    skip: Annotated[int, Ge(0)] = 0
