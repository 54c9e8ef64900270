"""Multipliers of the learning rate by step."""

from __future__ import annotations

import torch
from golden.harness import Case
from golden.reference import build


def run(case: Case) -> None:
    multiplier = build(case.spec["schedule"], case.spec["config"])
    values = [multiplier(step) for step in case.given("step").tolist()]
    case.check("value", torch.tensor(values, dtype=torch.float64))
