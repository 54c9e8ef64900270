"""sigma -> the weight in the loss; tensors loss.NAME.DTYPE, and the same formulas recorded again as denoiser.*."""

from __future__ import annotations

from golden.harness import Case
from golden.reference import build, by_prefix

WEIGHTINGS = {"unit": "UnitWeighting", "edm": "EDMWeighting", "v": "VWeighting", "eps": "EpsWeighting"}


def run(case: Case) -> None:
    for tensor in case.tensors:
        kind, *rest = tensor.split(".")
        if kind == "sigma":
            continue
        assert kind in ("loss", "denoiser"), tensor
        name, dtype = rest
        weighting = build(by_prefix(name, WEIGHTINGS), case.spec["config"].get(name))
        case.check(tensor, weighting(case.given(f"sigma.{dtype}")))
