"""Averaged weights after each of several updates, and a forward with them swapped in."""

from __future__ import annotations

import torch
from golden.harness import Case
from torch import nn

from sgm_plugins.averages.ema import EMA


def run(case: Case) -> None:
    model = build_model(case)
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in case.spec["names"])
    set_parameters(case, model, 0)
    ema = EMA(decay=case.spec["decay"], warmup=case.spec["warmup"])
    ema.track({name: parameter for name, parameter in parameters.items() if parameter.requires_grad})
    steps = len(case.spec["effective_decay"])
    for step in range(1, steps + 1):
        set_parameters(case, model, step)
        ema.update()
        # without warm-up the reference does not count, and says so with -1
        count = ema.state_dict()["num_updates"] if case.spec["warmup"] else torch.tensor(-1)
        case.check(f"num_updates.{step}", count.to(torch.int32))
        ema.swap()
        for name in case.spec["names"]:
            case.check(f"shadow.{step}.{name}", parameters[name].detach().clone())
        if step == steps:
            case.check("out_with_ema_weights", model(case.given("x")))
        ema.swap()
        for name, parameter in parameters.items():
            case.equal(f"{name} swapped back", torch.equal(parameter, case.given(f"param.{step}.{name}")), True)
    case.check("out_after_restore", model(case.given("x")))


def build_model(case: Case) -> nn.Module:
    """The reference's model: a matrix is a linear layer, a lone vector a layer norm."""
    prefix = "param.0."
    shapes = {name.removeprefix(prefix): t.shape for name, t in case.tensors.items() if name.startswith(prefix)}
    layers = sorted({name.partition(".")[0] for name in shapes}, key=int)
    weights = [shapes[f"{layer}.weight"] for layer in layers]
    return nn.Sequential(*(nn.Linear(w[1], w[0]) if len(w) == 2 else nn.LayerNorm(w[0]) for w in weights))


@torch.no_grad()
def set_parameters(case: Case, model: nn.Module, step: int) -> None:
    for name, parameter in model.named_parameters():
        parameter.copy_(case.given(f"param.{step}.{name}"))
