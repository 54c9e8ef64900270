"""The section `cache` of a config."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar


@dataclass
class Caching:
    """Where the outputs of cached parts are kept.

    Attributes:
        dir: the folder; many configs and processes may share it.
    """

    resumable: ClassVar[bool] = True

    dir: Path = Path("cache")
