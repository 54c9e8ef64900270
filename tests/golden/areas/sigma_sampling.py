"""Training noise levels, from recorded draws and from a seed."""

from __future__ import annotations

import torch
from golden.harness import Case
from golden.reference import build


def run(case: Case) -> None:
    sampler = build(case.spec["sampler"], case.spec["config"])
    draw, rand = case.given("draw"), case.given("rand")
    case.check("sigmas", sampler(len(draw), rand=draw))
    case.check("sigmas_from_rand", sampler(len(rand), rand=rand))
    # With a zero appended to its table, the reference never draws the last level; ours draws all of them.
    if not case.spec["config"].get("do_append_zero"):
        case.check("sigmas", sampler(len(draw), generator=torch.Generator().manual_seed(case.spec["seed"])))
