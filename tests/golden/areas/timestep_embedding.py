"""Sinusoidal features; tensors KIND.dDIM, `unet_pN` with another max_period, `nd` of several numbers per sample."""

from __future__ import annotations

from golden.harness import Case
from golden.reference import NotBuiltError, build, require

from sgm_plugins.sinusoidal import timestep_embedding


def run(case: Case) -> None:
    for tensor in case.tensors:
        if tensor in ("t", "nd_in"):
            case.given(tensor)
            continue
        kind, dim = tensor.split(".d")
        name, _, period = kind.partition("_p")
        options = {"max_period": float(period)} if period else {}
        if name == "ddpm":
            try:
                require("ddpm timestep embedding")
            except NotBuiltError as missing:
                case.leave_out(tensor, str(missing))
        elif name == "nd":
            embedder = build("ConcatTimestepEmbedderND", {"outdim": int(dim), **options})
            case.check(tensor, embedder(case.given("nd_in")))
        else:
            assert name in ("unet", "repeat_only"), tensor
            repeat_only = name == "repeat_only"
            case.check(tensor, timestep_embedding(case.given("t"), int(dim), repeat_only=repeat_only, **options))
