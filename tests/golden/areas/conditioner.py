"""Conditioners of several embedders: conditional, unconditional, and with the recorded drops of training."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from golden.harness import Case
from golden.reference import build
from golden.weights import load_weights
from torch import Tensor

from sgm_core.conditioning import Conditioning
from sgm_core.slots import EmbedderSlot
from sgm_plugins.conditioners.general import GeneralConditioner


def run(case: Case) -> None:
    slots = [slot_of(config) for config in case.spec["embedders"]]
    conditioner = GeneralConditioner(slots)
    load_weights(case, conditioner)
    batch = entries(case, "batch.")
    force_uc_zero = case.spec["force_uc_zero_embeddings"] or ()
    force_zero = case.spec["force_cond_zero_embeddings"] or ()
    check(case, "c", conditioner(batch, drop=False, force_zero=force_zero))
    check(case, "uc", conditioner(entries(case, "batch_uc.") or batch, drop=False, force_zero=force_uc_zero))
    check(case, "train", with_drops(slots, batch, recorded_drops(case, slots)))


OPTIONS = {"target", "params", "input_key", "input_keys", "is_trainable", "ucg_rate", "legacy_ucg_value"}


def slot_of(config: dict[str, Any]) -> EmbedderSlot:
    assert config.keys() <= OPTIONS, config.keys()
    return EmbedderSlot(
        embedder=build(config["target"], config.get("params")),
        input_key=config.get("input_key"),
        input_keys=config.get("input_keys"),
        trainable=config.get("is_trainable", False),
        ucg_rate=config.get("ucg_rate", 0.0),
        ucg_value=config.get("legacy_ucg_value"),
    )


def entries(case: Case, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): case.given(name) for name in case.tensors if name.startswith(prefix)}


def recorded_drops(case: Case, slots: Sequence[EmbedderSlot]) -> list[list[bool]]:
    """Which samples each slot dropped: the recorded masks; for a slot with a value in place of zeros, numpy's draws."""
    rows = len(next(iter(entries(case, "batch.").values())))
    masks = itertools.count()
    drops = []
    for slot in slots:
        if slot.ucg_rate == 0:
            drops.append([False] * rows)
        elif slot.ucg_value is None:
            drops.append([keep == 0 for keep in case.given(f"train.bernoulli.{next(masks)}").tolist()])
        else:
            prng = np.random.RandomState(case.spec["seed"])
            drops.append([bool(prng.choice(2, p=[1 - slot.ucg_rate, slot.ucg_rate])) for _ in range(rows)])
    return drops


def with_drops(
    slots: Sequence[EmbedderSlot], batch: dict[str, Tensor], drops: Sequence[Sequence[bool]]
) -> Conditioning:
    """What training gives when exactly these samples drop: one sample at a time, with drop rates of 0 and 1."""
    rows = []
    for i, dropped in enumerate(zip(*drops, strict=True)):
        certain = [replace(slot, ucg_rate=float(drop)) for slot, drop in zip(slots, dropped, strict=True)]
        rows.append(GeneralConditioner(certain)({key: value[i : i + 1] for key, value in batch.items()}))
    return Conditioning.cat(rows)


def check(case: Case, name: str, cond: Conditioning) -> None:
    ours = {"vector": cond.vector, "crossattn": cond.crossattn, "concat": cond.concat, **cond.extras}
    ours = {f"{name}.{key}": value for key, value in ours.items() if value is not None}
    theirs = {key for key in case.tensors if key.startswith(f"{name}.") and ".bernoulli." not in key}
    case.equal(f"entries of {name}", sorted(ours), sorted(theirs))
    for key, value in ours.items():
        case.check(key, value)
