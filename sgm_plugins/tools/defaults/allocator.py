"""The heap of the C library, on a CPU."""

from __future__ import annotations

import ctypes
from contextlib import suppress

from lightning.pytorch import Callback, LightningModule, Trainer

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of <malloc.h>


def keep_freed_memory() -> bool:
    """Have this process keep the memory that it frees, for what it allocates next. Gives whether it does now.

    A step frees what it allocated: the activations, a GB. By default glibc gives such memory back to the system, which
    clears each of its pages before the next step gets it again. Later it cannot be given back: only for a process
    that trains. Other C libraries, and allocators put before this one, are left as they are.
    """
    with suppress(OSError, AttributeError, TypeError):  # no mallopt here; Windows
        mallopt = ctypes.CDLL(None).mallopt
        largest = any(mallopt(_MMAP_THRESHOLD, size) for size in (2**30, 2**25))  # 2^25: all that older ones allow
        return largest and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))
    return False


class KeepsFreedMemory(Callback):
    """Of a process that trains on a CPU."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.strategy.root_device.type == "cpu":
            keep_freed_memory()
