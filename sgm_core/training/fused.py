"""The fastest form of an optimizer step, where the config does not choose one."""

from torch.optim import Adam, AdamW, Optimizer


def fuse(optimizer: Optimizer) -> None:
    """Let Adam and AdamW take a step in one kernel, where `fused` and `foreach` are left open (None, torch's default).

    Torch then takes `foreach` on a GPU, whose temporaries are as large as all weights, and a loop on a CPU, which is
    three times as slow (`benchmarks/memory.py`). Since the constructor is not told, a scaler of 16-mixed still divides
    the gradients itself, so that they can be clipped.

    A checkpoint says what its run took, and one that is resumed takes the same. Other optimizers, and parameters that
    the kernels do not take, are left as they are.
    """
    if type(optimizer) not in (Adam, AdamW):
        return
    for group in optimizer.param_groups:
        left_open = group["fused"] is None and group["foreach"] is None and not group["differentiable"]
        if left_open and all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in group["params"]):
            group["fused"] = True
