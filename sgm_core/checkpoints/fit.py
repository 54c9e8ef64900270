"""How the weights of a file fit a model, by part, and the likely reason where they do not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from sgm_core.checkpoints.files import CheckpointError, shapes_of
from sgm_core.checkpoints.layouts import by_part, part_of
from sgm_core.checkpoints.recognise import recognise

SHOWN = 3
"""Keys of a kind that a message names."""

MISSING, UNEXPECTED, SHAPES = "missing in the file", "not in the model", "of another shape"


class LoadReport(NamedTuple):
    """A checkpoint of which every key was loaded, and what its user may want to know: "no averaged weights"."""

    path: Path
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        return "\n".join([f"{self.path} fits this model.", *(f"  {note}" for note in self.notes)])


def compare(path: Path, own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Compare the weights of a file with a model's own, both by the model's keys. Fractions of any precision fit.

    Raises:
        CheckpointError: they differ in keys, shapes or kinds of number; the message lists them by part.
    """
    both = [(key, own[key], weights[key]) for key in own if key in weights]
    found = {
        MISSING: [key for key in own if key not in weights],
        UNEXPECTED: [key for key in weights if key not in own],
        SHAPES: [f"{key} {tuple(b.shape)} for {tuple(a.shape)}" for key, a, b in both if a.shape != b.shape],
        "of another kind of number": [
            f"{key} " + f"{b.dtype} for {a.dtype}".replace("torch.", "")
            for key, a, b in both
            if a.is_floating_point() != b.is_floating_point()
        ],
    }
    if not any(found.values()):
        return
    reason = likely(found, own, weights)
    lines = [f"{path} does not fit this model:", *([f"  likely: {reason}"] if reason else [])]
    expected = by_part(own)
    for title, keys in found.items():
        for part, some in by_part(keys).items():
            line = f"  {title}: {', '.join(some[:SHOWN])}"
            if len(some) > SHOWN:
                is_all = title == MISSING and len(some) == len(expected[part])
                line += f", ... ({f'all {len(some)}' if is_all else f'{len(some)} in all'}"
                line += f" of the {part})" if part else ")"
            lines.append(line)
    raise CheckpointError("\n".join(lines))


def likely(found: Mapping[str, Sequence[str]], own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    """The most likely reason why a file does not fit; an empty text where there is no telling."""
    claims = recognise(shapes_of(weights))
    if claims and not claims[0].whole and (form := claims[0].form):
        return f"it is {form.title}, not a model{f'; {form.remedy}' if form.remedy else ''}"
    if any(".lora_" in key for key in found[UNEXPECTED]):
        return "it has an adapter: give the model the same, or merge it (sgm convert lora --to merged)"
    theirs = [model for claim in claims for model in claim.models]
    ours = [model for claim in recognise(shapes_of(own)) for model in claim.models]
    if theirs and not any(model in ours for model in theirs):
        names = " or ".join(model.title for model in theirs)
        configs = " or ".join(model.config for model in theirs if model.config)
        return f"it is {names}; " + (f"use the config {configs}" if configs else "no config of it is shipped")
    present, expected = by_part(weights), by_part(own)
    absent = [part for part in expected if part not in present]
    if any(absent) and set(present) & set(expected):
        return f"it has only the {_and(present)}, and nothing of the {_and(absent)}"
    if found[SHAPES] and not found[MISSING] and not found[UNEXPECTED]:
        parts = dict.fromkeys(map(part_of, found[SHAPES]))
        return f"the same model in another width or depth: compare the config's {_and(parts)}"
    return ""


def _and(parts: Iterable[str]) -> str:
    names = [part for part in parts if part] or ["model"]
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
