"""How many rows are worked on at once, so that they fit into the memory that is free."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from sgm_core.randomness import own_random_state
from sgm_core.randomness.samples import in_chunks, sample_draws
from sgm_plugins.tools.dry_run.live_memory import LiveMemory

SHARE = 0.5
"""Of the free memory. What is counted are tensors; a convolution's workspace can be as large, and free memory lies in
pieces."""


class FittingChunks:
    """Works on the rows of a tensor in as few chunks as memory allows.

    What a row takes is counted once for each shape, in a call with zeros whose result is thrown away. From then on that
    shape is worked on in chunks of one size: the device is not asked again. A chunk that runs out of memory all the
    same, on a device that says so, is worked on in halves, and so are all later ones.
    """

    def __init__(self) -> None:
        self._fitting: dict[tuple[object, ...], int] = {}

    def run(self, work: Callable[[Tensor], Tensor], x: Tensor, module: nn.Module, what: str, unit: int = 1) -> Tensor:
        """What `work` gives for all rows of x.

        Args:
            work: rows -> as many rows, each by itself.
            x: the rows.
            module: what works, in inference. Its weights are there in any case, and do not count.
            what: a name of the work; what it takes is remembered under that.
            unit: rows that can not be told apart, as the frames of a clip: a chunk has a multiple of them.

        Raises:
            torch.OutOfMemoryError: a single unit does not fit.
        """
        key = (what, x.shape[1:], x.dtype, x.device, unit, torch.is_autocast_enabled(x.device.type))
        if key not in self._fitting and len(x) > unit:
            self._fitting[key] = unit * units_that_fit(work, x[:unit], module)
        results: list[Tensor] = []
        for chunk in in_chunks(x, self._fitting.get(key, unit)):
            results += self._halving(work, chunk, key, unit)
        return results[0] if len(results) == 1 else torch.cat(results)

    def _halving(
        self, work: Callable[[Tensor], Tensor], rows: Tensor, key: tuple[object, ...], unit: int
    ) -> list[Tensor]:
        try:
            return [work(rows)]
        except torch.OutOfMemoryError:
            if len(rows) <= unit:
                raise
        self._fitting[key] = half = max(1, len(rows) // unit // 2) * unit  # outside: the error holds on to tensors
        return [result for part in in_chunks(rows, half) for result in self._halving(work, part, key, unit)]


def units_that_fit(work: Callable[[Tensor], Tensor], unit: Tensor, module: nn.Module) -> int:
    """How many units like this one fit at once, 1 at least; 1 where the system does not say what is free."""
    weights = [*module.parameters(), *module.buffers()]
    with own_random_state(unit.device), sample_draws(None), LiveMemory(unit.device, weights) as memory:
        before = memory.live
        work(torch.zeros_like(unit))
    free = free_memory(unit.device)
    return 1 if free is None else max(1, int(SHARE * free / max(1, memory.peak - before)))


def free_memory(device: torch.device) -> int | None:
    """Bytes that tensors of this device may still take; None where the system does not say."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        host = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # no Linux
        return None
    return host if (group := _free_in_container()) is None else min(host, group)


def _free_in_container() -> int | None:
    """What the limit of this process's control group leaves; None where there is none."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = (folder / "memory.max").read_text().strip(), int((folder / "memory.current").read_text())
        files = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())["inactive_file"]
    except (OSError, KeyError, ValueError):
        return None
    return None if limit == "max" else max(0, int(limit) - used + int(files))
