"""sigma -> c_skip, c_out, c_in, c_noise; tensors NAME.COEFFICIENT.DTYPE."""

from __future__ import annotations

from golden.harness import Case
from golden.reference import build, by_prefix

SCALINGS = {
    "edm": "EDMScaling",
    "eps": "EpsScaling",
    "v": "VScaling",
    "v_edm_cnoise": "VScalingWithEDMcNoise",
}


def run(case: Case) -> None:
    for tensor in case.tensors:
        name, *rest = tensor.split(".")
        if name == "sigma":
            continue
        coefficient, dtype = rest
        scaling = build(by_prefix(name, SCALINGS), case.spec["config"][name])
        case.check(tensor, getattr(scaling(case.given(f"sigma.{dtype}")), coefficient))
