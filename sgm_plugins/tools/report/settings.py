"""The section `report` of a config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt


@dataclass
class Reporting:
    """The report page of a run.

    Attributes:
        write: whether `run.json` and `report.html` are written while the run trains; `sgm report RUN` does it later.
        interval: seconds from one page to the next, at least.
        paths: whether they also hold what tells the machine and its user: command lines, folders, the host. Without it
            the page can be shared.
    """

    resumable: ClassVar[bool] = True

    write: bool = True
    interval: Annotated[float, Gt(0)] = 10.0
    paths: bool = False
