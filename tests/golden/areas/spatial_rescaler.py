"""Maps rescaled in stages, with and without a convolution."""

from __future__ import annotations

from golden.harness import Case
from golden.reference import build
from golden.weights import load_weights


def run(case: Case) -> None:
    embedder = build("SpatialRescaler", case.spec["config"])
    load_weights(case, embedder)
    case.check("out", embedder(case.given("x")))
