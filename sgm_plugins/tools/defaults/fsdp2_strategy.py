"""FSDP2 as a strategy: each process keeps a part of every trained weight, its gradient, moments and average."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from sgm_core.errors import SgmError

NAME = "fsdp2"
"""What `trainer.strategy` calls it."""


class FSDP2Strategy(ModelParallelStrategy):
    """Fully sharded data parallel, second version: Zhao et al. 2023, arXiv:2304.11277; `torch.distributed.fsdp`.

    An engine's `configure_model` says what is sharded. The rest is Lightning's strategy, over all processes, but for
    checkpoints: they are the files that every other strategy writes, whole, gathered a tensor at a time into the memory
    of the first process. So a run goes on with any number of processes, and any strategy; and everything that reads
    checkpoints reads these. Considered: torch's distributed checkpoints, a folder with a part from each process;
    refused, since reading one runs a pickle.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, **kwargs)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def setup(self, trainer: Trainer) -> None:
        assert self.model is not None
        if not any(isinstance(parameter, DTensor) for parameter in self.model.parameters()):
            raise SgmError(
                f"trainer.strategy: {type(self.model).__name__} does not say what of it {NAME} may shard; use ddp"
            )
        super().setup(trainer)

    # --- checkpoints -------------------------------------------------------------------------------------------------

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """On every process; whole tensors on the first one, nothing on the others."""
        assert self.lightning_module is not None
        state: dict[str, Any] = self._gathered(self.lightning_module.state_dict())
        return state

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """As `lightning_module_state_dict`."""
        state: dict[str, Any] = self._gathered(getattr(optimizer, "_optimizer", optimizer).state_dict())
        return state

    def _gathered(self, state: Any) -> Any:
        def gather(value: Tensor) -> Tensor | None:
            whole: Tensor = value.full_tensor() if isinstance(value, DTensor) else value
            return whole.detach().cpu() if self.is_global_zero else None

        return mapped(state, gather)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """The file, on every process: mapped into memory, not read as a whole."""
        path = Path(self.broadcast(checkpoint_path))
        loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return loaded

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict()
        state = {key: like(value, own.get(key)) for key, value in checkpoint["state_dict"].items()}
        self.lightning_module.load_state_dict(state, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            moments = {
                number: {name: like(value, parameters[number]) for name, value in entries.items()}
                for number, entries in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": moments})


def like(value: Any, own: Any) -> Any:
    """A whole tensor as one that is sharded is: each process takes its part. Anything else as it is."""
    if not isinstance(own, DTensor) or not isinstance(value, Tensor) or value.shape != own.shape:
        return value
    whole = value.to(own.device)
    return distribute_tensor(whole, own.device_mesh, own.placements, src_data_rank=None)  # all have it: nothing is sent


def mapped(value: Any, function: Callable[[Tensor], Any]) -> Any:
    """Nested dicts, lists and tuples with each tensor replaced."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: mapped(entry, function) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(mapped(entry, function) for entry in value)
    return value
