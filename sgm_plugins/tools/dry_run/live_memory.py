"""How many bytes of tensors are alive at most, on any device, told apart by phases."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sgm_core.training.sharding import local


class LiveMemory(TorchDispatchMode):
    """Inside, counts the memory of tensors: each storage once, from the operation that makes it until nothing refers to
    it any more. Nothing waits for the device, and the numbers are the same on all of them.

    What an operation takes for itself and gives back before it ends, the workspace of a convolution say, is seen on a
    GPU, whose allocator tells it (its count of the most memory so far begins anew with each operation), and not on a
    CPU. The gaps that an allocator leaves are not seen. What is compiled runs op by op inside, for kernels do not say
    what they take; and it is compiled as ever afterwards, while torch alone would have given up on it.

    Args:
        device: whose tensors count.
        known: tensors that are alive already.

    Attributes:
        live: bytes at present.
        peak: the most bytes so far.
        peaks: the most bytes in each phase that has begun, by its name.
    """

    def __init__(self, device: torch.device, known: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        self.device = device
        self.live = self.peak = 0
        self.peaks: dict[str, int] = {}
        self._phase = ""
        self._storages: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._stance: AbstractContextManager[Any] = nullcontext()
        self.add(known)

    def __enter__(self) -> LiveMemory:
        if "torch._dynamo" in sys.modules:  # else nothing is compiled, and to import it takes a second
            self._stance = torch.compiler.set_stance("force_eager")
        self._stance.__enter__()
        super().__enter__()  # type: ignore[no-untyped-call]  # as above
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._stance.__exit__(*error)

    def begin(self, phase: str) -> None:
        """From now on it is this phase; one that was there before goes on."""
        self._phase = phase
        self.peaks[phase] = max(self.live, self.peaks.get(phase, 0))

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Count these, if they are not yet."""
        for tensor in tensors:
            if tensor.device.type == self.device.type:
                self._add(local(tensor).untyped_storage())

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._storages or not size:
            return
        self._storages[key] = weakref.ref(storage, partial(self._gone, key, size))
        self.live += size
        self._reach(self.live)

    def _reach(self, size: int) -> None:
        self.peak = max(size, self.peak)
        if self._phase:
            self.peaks[self._phase] = max(size, self.peaks[self._phase])

    def _gone(self, key: int, size: int, _: object) -> None:
        del self._storages[key]
        self.live -= size

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        out = func(*args, **(kwargs or {}))
        self.add(tensors_in(out))
        if on_gpu:
            most, now = torch.cuda.max_memory_allocated(self.device), torch.cuda.memory_allocated(self.device)
            self._reach(self.live + most - now)
        return out


def tensors_in(value: Any) -> Iterable[Tensor]:
    """The tensors in lists, tuples and mappings, however deep."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from tensors_in(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from tensors_in(inner)
