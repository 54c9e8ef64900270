"""Sinusoidal features; tensors KIND.dDIM, `unet_pN` with another max_period, `nd` of several numbers per sample.

The float32 exponential behind a frequency differs in its last digit between processors; a large t makes that visible.
"""

from __future__ import annotations

import torch
from golden.harness import Case
from golden.reference import build
from torch import Tensor

from sgm_plugins.networks.ddpm_unet import ddpm_timestep_embedding
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
            actual = ddpm_timestep_embedding(case.given("t"), int(dim))
            case.check(tensor, actual, rounding=rounding(case.given("t"), int(dim), int(dim) // 2 - 1))
        elif name == "nd":
            embedder = build("ConcatTimestepEmbedderND", {"outdim": int(dim), **options})
            each = rounding(case.given("nd_in").flatten(), int(dim), int(dim) // 2, **options)
            case.check(tensor, embedder(case.given("nd_in")), rounding=each.reshape(len(case.given("nd_in")), -1))
        elif name == "repeat_only":
            case.check(tensor, timestep_embedding(case.given("t"), int(dim), repeat_only=True, **options))
        else:
            assert name == "unet", tensor
            actual = timestep_embedding(case.given("t"), int(dim), **options)
            case.check(tensor, actual, rounding=rounding(case.given("t"), int(dim), int(dim) // 2, **options))


def rounding(t: Tensor, dim: int, intervals: int, max_period: float = 10000) -> Tensor:
    """How far features may move, (b, dim): two units in the last place of the frequencies, times t."""
    phase = t.double().abs()[:, None] * max_period ** (-torch.arange(dim // 2, dtype=torch.float64) / intervals)
    return 2**-22 * torch.cat([phase, phase, phase.new_zeros(len(t), dim % 2)], dim=1)
