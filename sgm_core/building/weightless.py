"""A model without the memory of its weights: its parameters have shapes and no values, all else is as usual."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

_active: ContextVar[bool] = ContextVar("weightless", default=False)


@contextmanager
def weightless() -> Iterator[None]:
    """Modules that are built inside have their parameters on the meta device, where drawing values costs nothing.

    Buffers and plain tensors are computed, other than under `torch.device("meta")`: a table of noise levels that no
    file holds is there. A parameter is moved as soon as a module gets it, so that at most one of them takes memory.
    """
    token = _active.set(True)
    handle = register_module_parameter_registration_hook(_without_memory)  # type: ignore[arg-type]  # its result counts
    try:
        yield
    finally:
        handle.remove()
        _active.reset(token)


def _without_memory(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
    if parameter is None or parameter.is_meta or not _active.get():  # another thread may build one with weights
        return None  # leaves it; what modules share stays shared
    return nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
