"""What loggers share that write a file of their own in the folder of a run."""

from __future__ import annotations

import math
from abc import abstractmethod
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from sgm_core.files import Tolerant
from sgm_core.roles import Logger


class FolderLogger(Logger):
    """A logger with one file. Only rank 0 writes. On a full disk metrics are lost, with a warning that says of what;
    training continues.
    """

    def __init__(self, path: Path, what: str) -> None:
        super().__init__()
        self.path = path
        self._tolerant = Tolerant(what)

    name = version = ""
    """Lightning builds paths from them, and the file lies in the folder itself."""

    @property
    def save_dir(self) -> str:
        """The folder of the file."""
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run's config.yaml has them all."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Write the metrics of a step, None being the last one that was logged (0 in an empty file)."""
        with self._tolerant:
            self._log(plain(metrics), step)

    @abstractmethod
    def _log(self, metrics: dict[str, Any], step: int | None) -> None: ...


def plain(value: Any) -> Any:
    """A metric, or a dict or list of them, in JSON's types; what is not finite as "NaN", "Infinity" and "-Infinity"."""
    if isinstance(value, dict):
        return {str(key): plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):  # tensors and numpy's numbers
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
