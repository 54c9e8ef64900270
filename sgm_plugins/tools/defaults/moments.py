"""What an optimizer remembers of each parameter, compared when a checkpoint gives it back."""

from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from sgm_core.errors import SgmError


class ComparesMoments(Callback):
    """Before the first step of a resumed run, compares what the optimizers got from the checkpoint.

    Raises:
        SgmError: a tensor has another shape than the optimizer would have made.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        names = {parameter: name for name, parameter in pl_module.named_parameters()}
        for optimizer in trainer.optimizers if trainer.ckpt_path is not None else ():
            for parameter, reason in misfits(optimizer):
                name = names.get(parameter, "a parameter")
                raise SgmError(f"{trainer.ckpt_path}: the optimizer's state of {name} does not fit: {reason}")


def misfits(optimizer: Optimizer) -> Iterator[tuple[nn.Parameter, str]]:
    """Each parameter whose restored state is not what the optimizer would have made, and how it differs.

    No kernel may see such a tensor: a fused one writes as many numbers as the parameter has, whatever the size of its
    moments. Tensors of the right shape get the strides of the parameter. The state of an optimizer that needs real
    numbers for its first step is not compared.
    """
    for parameter, fresh in _after_a_step(optimizer).items():
        state = optimizer.state.get(parameter) or {}
        for name in fresh if state else ():
            wanted, value = fresh[name], state.get(name)
            if not isinstance(wanted, Tensor):
                continue
            if not isinstance(value, Tensor) or value.layout != wanted.layout:
                yield parameter, f"its '{name}' is no tensor"
            elif value.shape != wanted.shape:
                yield parameter, f"its '{name}' has shape {tuple(value.shape)}, expected {tuple(wanted.shape)}"
            elif value.stride() != wanted.stride():
                state[name] = torch.empty_strided(
                    wanted.shape, wanted.stride(), dtype=value.dtype, device=value.device
                ).copy_(value)


def _after_a_step(optimizer: Optimizer) -> dict[nn.Parameter, dict[str, Any]]:
    """The state that the same optimizer makes in a step on parameters that take no memory."""
    groups: list[dict[str, Any]] = []
    twins: dict[nn.Parameter, nn.Parameter] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            twins[parameter] = nn.Parameter(torch.empty_like(parameter, device="meta"))
            twins[parameter].grad = torch.empty_like(twins[parameter])
        groups.append({**group, "params": [twins[p] for p in group["params"]], "fused": None, "foreach": False})
    fresh = object.__new__(type(optimizer))
    fresh.__dict__ = {**optimizer.__dict__, "state": defaultdict(dict), "param_groups": groups}
    fresh.__dict__ |= {"_optimizer_step_pre_hooks": OrderedDict(), "_optimizer_step_post_hooks": OrderedDict()}
    fresh.__dict__.pop("step", None)  # where a schedule counts the steps of the real one
    try:
        fresh.step()
    except Exception:  # of any kind: there are no numbers
        return {}
    return {parameter: fresh.state[twin] for parameter, twin in twins.items()}
