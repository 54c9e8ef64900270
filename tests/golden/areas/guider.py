"""Guiders on a network that gives a recorded answer to the doubled batch."""

from __future__ import annotations

import torch
from golden.harness import Case
from golden.reference import WRONG, build
from torch import Tensor

from sgm_core.conditioning import Conditioning
from sgm_plugins.guiders import TrapezoidGuidance


def run(case: Case) -> None:
    x, sigma, cond, uncond = case.given("x"), case.given("sigma"), conditioning(case, "c"), conditioning(case, "uc")
    for name, params in case.spec["guiders"].items():
        guider = build(params["guider"], {key: value for key, value in params.items() if key != "guider"})
        seen: dict[str, Tensor] = {}
        rows = len(case.tensors[f"{name}.guided"])

        def denoise(
            x: Tensor, sigma: Tensor, cond: Conditioning, seen: dict[str, Tensor] = seen, rows: int = rows
        ) -> Tensor:
            seen.update(in_x=x, in_sigma=sigma, **{f"in_{key}": getattr(cond, key) for key in entries(case)})
            return case.given("pred")[-max(rows, len(x)) :]

        guided = guider(denoise, x, sigma, cond, uncond)
        if isinstance(guider, TrapezoidGuidance):
            case.leave_out(f"{name}.guided", WRONG["trapezoid"])
            case.leave_out(f"{name}.scale", WRONG["trapezoid"])
        else:
            case.check(f"{name}.guided", guided)
            if f"{name}.scale" in case:
                scale = torch.as_tensor(guider.scale, dtype=torch.float32)
                case.check(f"{name}.scale", scale.reshape(case.tensors[f"{name}.scale"].shape))
        for entry, value in seen.items():
            # at scale 1 the conditional half runs alone, the second one of the reference
            case.check(f"{name}.{entry}", value, rows=slice(-len(value), None))


def conditioning(case: Case, prefix: str) -> Conditioning:
    return Conditioning(**{key: case.given(f"{prefix}_{key}") for key in entries(case)})


def entries(case: Case) -> list[str]:
    return [key for key in ("vector", "crossattn", "concat") if f"c_{key}" in case]
