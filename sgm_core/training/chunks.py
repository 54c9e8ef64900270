"""How many rows are worked on at once, so that they fit into memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Literal

import torch
from torch import Tensor

from sgm_core.randomness.samples import in_chunks

Rows = int | Literal["auto"] | None
"""How many at once, None for all."""

ON_CPU = 1
"""Units at once on a CPU. A system without memory ends the process there, which nothing can catch; and one large image
keeps all cores busy."""


class FittingChunks:
    """Works on some rows of a tensor at once, or with `auto` on as many as the device has memory for.

    The latter starts a shape with all rows. When the device runs out of memory, their number is halved until they fit.
    Later calls of that shape start with the number that did. On a CPU it is `ON_CPU` from the start.
    """

    def __init__(self) -> None:
        self._fitting: dict[tuple[object, ...], int] = {}

    def run(self, work: Callable[[Tensor], Tensor], x: Tensor, what: str, unit: int = 1, size: Rows = "auto") -> Tensor:
        """The results of `work` for all rows of x. What samples draw does not depend on how many fit.

        Args:
            work: rows -> as many rows, each by itself.
            what: a name of the work; sizes are remembered under it.
            unit: rows that belong together, as the frames of a clip: a chunk has a multiple of them.
            size: how many rows at once.

        Raises:
            torch.OutOfMemoryError: a single unit does not fit.
        """
        key = (what, x.shape[1:], x.dtype, x.device, unit)
        start = ON_CPU * unit if x.device.type == "cpu" else len(x)
        rows = self._fitting.get(key, start) if size == "auto" else size or len(x)
        while True:
            try:
                with closing(in_chunks(x, rows)) as chunks:
                    parts = [work(chunk) for chunk in chunks]
                return parts[0] if len(parts) == 1 else torch.cat(parts)
            except torch.OutOfMemoryError:
                if size != "auto" or rows <= unit:
                    raise
            rows = max(1, min(rows, len(x)) // unit // 2) * unit  # here, where the error no longer holds on to tensors
            self._fitting[key] = rows
