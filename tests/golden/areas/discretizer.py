"""Grids of noise levels; tensors nN, with .zero for a final zero and .flip for ascending order."""

from __future__ import annotations

import torch
from golden.harness import Case
from golden.reference import build

from sgm_plugins.discretizations import sigma_table


def run(case: Case) -> None:
    discretization = build(case.spec["discretizer"], case.spec["config"])
    for tensor in case.tensors:
        name, *options = tensor.split(".")
        if name == "alphas_cumprod":
            case.check(tensor, discretization.alphas_cumprod)
            continue
        n = int(name.removeprefix("n"))
        if options == ["timesteps"]:
            case.check(tensor, torch.tensor(discretization.timesteps(n)))
            continue
        assert set(options) <= {"zero", "flip"}, tensor
        case.check(tensor, sigma_table(discretization, n, "zero" in options, "flip" in options))
        if options == ["zero"]:
            case.check(tensor, discretization(n))
