"""Where the parts of a model are, and in which precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from sgm_core.engine import DiffusionEngine
from sgm_core.roles import FirstStage
from sgm_plugins.tools.sampling.recipe import Dtype

DTYPES: dict[Dtype, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def cast(engine: DiffusionEngine, dtype: Dtype) -> None:
    """Bring network and embedders to a precision. First stages are float32, those in embedders too.

    The autoencoder of SDXL overflows in half precision, and all of them lose detail in it.
    """
    engine.model.to(DTYPES[dtype])
    engine.conditioner.to(DTYPES[dtype])
    for part in engine.modules():
        if isinstance(part, FirstStage):
            part.float()


class Parts:
    """The parts of a model on its device: all the time, or each only while it works.

    With `offload` a part is copied to the device when it is used and forgotten there afterwards; the weights that
    stay on the host are never copied back, for nothing changes them.

    Args:
        engine: the model, on the CPU.
        device: where it computes.
        offload: whether idle parts stay on the host.

    Attributes:
        resident: names of the parts that are on the device.
    """

    def __init__(self, engine: DiffusionEngine, device: torch.device, offload: bool) -> None:
        self.device = device
        self.offload = offload
        self.modules: dict[str, nn.Module] = {
            "conditioner": engine.conditioner,
            "network": engine.model,
            "first_stage": engine.first_stage_model,
        }
        engine.denoiser.to(device)  # a table
        self.resident: set[str] = set()
        if not offload:
            for part in self.modules.values():
                part.to(device)
            self.resident = set(self.modules)

    @contextmanager
    def using(self, *names: str) -> Iterator[None]:
        """Inside, these parts are on the device."""
        away = [name for name in names if name not in self.resident]
        if not away:
            yield
            return
        tensors = [tensor for name in away for tensor in _tensors(self.modules[name])]
        at_home = [tensor.data for tensor in tensors]
        try:
            for tensor in tensors:
                tensor.data = tensor.data.to(self.device, non_blocking=True)
            self.resident |= set(away)
            yield
        finally:
            self.resident -= set(away)
            for tensor, data in zip(tensors, at_home, strict=True):
                tensor.data = data


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]
