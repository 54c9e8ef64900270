"""Stops a run before a loss or a gradient that is not finite reaches the weights, and keeps what reproduces it."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from sgm_core.errors import StopRun
from sgm_core.files import replacing
from sgm_core.runs.saving import write_torch
from sgm_core.training.base import TrainingEngine

FOLDER = "nonfinite"


class NonFiniteError(StopRun):
    """A loss or a gradient that is not finite; the weights are as they were before the step."""


class FiniteGuard(Callback):
    """Looks at the loss and the gradients of each optimizer step before it is taken.

    If one is not finite, `nonfinite/step-00000012.pt` in the run's folder gets the batches, the random state before
    each and the weights, and the run ends; or the step is left out, as often as `skip` allows in the whole run. The
    number is that of the checkpoints: the steps that were taken before. `sgm replay` takes the step again.

    The answer is needed before the step, so each step waits once for the device. Gradients of 16-mixed that overflow
    are the scaler's affair, which lowers its scale and leaves the step out; at a scale of 1 or less they are a fault.

    Args:
        folder: of the run.
        skip: steps that may be left out.
    """

    def __init__(self, folder: Path, skip: int = 0) -> None:
        self.folder = folder / FOLDER
        self.skip = skip
        self.skipped = 0
        self._step = -1
        self._losses: list[Tensor] = []
        self._batches: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped = state_dict["skipped"]

    # --- an optimizer step -------------------------------------------------------------------------------------------

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remember what the step is made of; the batches of an accumulation stay in memory until it is taken."""
        if trainer.global_step != self._step:
            self._step = trainer.global_step
            self._batches.clear()
        self._batches.append({"batch": batch, "batch_idx": batch_idx, "random": random_state(pl_module.device)})
        del self._batches[: -trainer.accumulate_grad_batches]  # a training_step without a loss takes no step

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._losses.append(loss.detach())

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        losses, self._losses = self._losses, []
        total = total_of_gradients(optimizer)
        device = pl_module.device
        loss = torch.stack([torch.zeros((), device=device), *(loss.float() for loss in losses)]).sum()
        gradient = torch.zeros_like(loss) if total is None else total.to(device)
        bad = torch.stack([loss.isfinite(), gradient.isfinite()]).logical_not().float()
        if trainer.world_size > 1:  # each rank has its own loss, and its own part of a sharded gradient
            bad = trainer.strategy.reduce(bad, reduce_op="sum")
        bad_loss, bad_gradient = bad.tolist()  # the one wait
        if not bad_loss and (not bad_gradient or overflow_of_scaler(trainer)):
            return
        what = f"the loss is {told(loss)}" if bad_loss else f"a gradient is not finite ({worst(pl_module)})"
        where = self._keep(trainer, pl_module, what, losses)
        said = f"step {trainer.global_step}: {what}; {where}"
        if self.skipped >= self.skip:
            allowed = f" ({self.skipped} steps were left out before)" if self.skipped else ""
            raise NonFiniteError(f"{said}. Stopped before the weights changed{allowed}")
        self.skipped += 1
        if trainer.is_global_zero:
            warnings.warn(f"{said}. The step is left out, {self.skipped} of at most {self.skip}", stacklevel=2)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None  # an optimizer passes by what has none: weights and moments stay

    def _keep(self, trainer: Trainer, pl_module: LightningModule, what: str, losses: list[Tensor]) -> str:
        """Write what reproduces the step; says where it is, or why it is nowhere. Every rank has batches of its own."""
        rank = "" if trainer.is_global_zero else f"-rank-{trainer.global_rank}"
        path = self.folder / f"step-{trainer.global_step:08d}{rank}.pt"
        weights = trainer.strategy.lightning_module_state_dict()  # on every rank: a sharded strategy gathers here
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        content = {
            "step": trainer.global_step,
            "epoch": trainer.current_epoch,
            "rank": trainer.global_rank,
            "processes": trainer.world_size,
            "accumulate": trainer.accumulate_grad_batches,
            "device": pl_module.device.type,
            "precision": str(trainer.precision),
            "scaler": {} if scaler is None else scaler.state_dict(),
            "what": what,
            "losses": plain(losses),  # as they go backward: scaled, and divided by the accumulation
            "batches": plain(self._batches),
            "weights": plain(weights) if trainer.is_global_zero else {},
        }
        if isinstance(pl_module, TrainingEngine):
            pl_module.on_save_checkpoint(content)  # how to build it again, and the seed of its draws
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                write_torch(content, temporary)
        except OSError as error:
            return f"its batch could not be saved in {path}: {error.strerror or error}"
        return f"batch, random state and weights are in {path}"


def total_of_gradients(optimizer: Optimizer) -> Tensor | None:
    """A number that is finite if all gradients are, and only then; no wait, no copy. None without gradients.

    On the CPU a sum, at the speed of the memory (the largest value takes 14 times as long there); elsewhere the largest
    value, which one kernel finds for many tensors.
    """
    grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    local = [grad.to_local() if hasattr(grad, "to_local") else grad for grad in grads]  # a shard of FSDP
    dense = [grad.coalesce().values() if grad.is_sparse else grad for grad in local]
    dense = [grad for grad in dense if grad.numel()]
    if not dense:
        return None
    if all(grad.device.type == "cpu" for grad in dense):
        # in float32 at least: finite gradients in half precision may have a sum that is not
        sums = [grad.sum(dtype=torch.promote_types(grad.dtype, torch.float32)) for grad in dense]
        return torch.stack(sums).double().sum()
    return torch.nn.utils.get_total_norm(dense, math.inf).float()


def overflow_of_scaler(trainer: Trainer) -> bool:
    """Whether the precision scales the loss, by enough to explain a gradient that overflows."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return scaler is not None and scaler.get_scale() > 1


def told(loss: Tensor) -> str:
    value = loss.item()
    return "not finite on another process" if math.isfinite(value) else str(value)


def worst(module: LightningModule) -> str:
    """Which parameters have such a gradient."""
    gradients = [(name, p.grad) for name, p in module.named_parameters() if p.grad is not None]
    bad = [name for name, grad in gradients if not grad.isfinite().all()]
    return f"{bad[0]}, {len(bad)} of {len(gradients)} parameters" if bad else "on another process"


def random_state(device: torch.device) -> dict[str, Any]:
    """All that is drawn from: Python's, numpy's and torch's states, as plain data; reading it waits for nothing."""
    name, keys, *rest = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.array(keys, dtype=np.int64)), *rest),
        "torch": torch.get_rng_state(),
    }
    if device.type not in ("cpu", "meta"):
        state["device"] = torch.get_device_module(device).get_rng_state()
    return state


def set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Go on drawing from where `random_state` looked; on an accelerator only if the state is of one."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "device" in state and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(state["device"])


def plain(value: Any) -> Any:
    """Tensors on the CPU, containers and numbers: what a checkpoint may hold. Anything else as its text."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(entry) for entry in value) if type(value) in (list, tuple) else [*map(plain, value)]
    return value if value is None or isinstance(value, (bool, int, float, str, bytes)) else repr(value)
