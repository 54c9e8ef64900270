"""How the weights of a file fit a model, by part, and what is likely the reason where they do not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from sgm_core.checkpoints.files import shapes_of
from sgm_core.checkpoints.layouts import by_part, part_of
from sgm_core.checkpoints.recognise import identify, recognise

SHOWN = 3
"""Keys of a kind that a message names."""


@dataclass(frozen=True)
class LoadReport:
    """How a checkpoint fits a model. Empty lists mean that every key was loaded.

    Attributes:
        path: of the file.
        missing, unexpected: keys that only the model, or only the file has.
        shapes, dtypes: a line for each key that differs: of another shape; integers for what is a fraction, or the
            other way round. Fractions of any precision fit each other.
        likely: what is likely the reason, and the way out.
        notes: what is no error: "no averaged weights in the file".
        numbers: of the model's keys, by part.
    """

    path: Path
    missing: list[str]
    unexpected: list[str]
    shapes: list[str]
    dtypes: list[str] = field(default_factory=list)
    likely: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    numbers: Mapping[str, int] = field(default_factory=dict)

    @property
    def fits(self) -> bool:
        return not (self.missing or self.unexpected or self.shapes or self.dtypes)

    def __str__(self) -> str:
        if self.fits:
            return "\n".join([f"{self.path} fits this model.", *(f"  {note}" for note in self.notes)])
        lines = [f"{self.path} does not fit this model:"]
        lines += [f"  likely: {reason}" for reason in self.likely]
        for title, keys in (
            ("missing in the file", self.missing),
            ("not in the model", self.unexpected),
            ("of another shape", self.shapes),
            ("of another kind of number", self.dtypes),
        ):
            for part, found in by_part(keys).items():
                lines.append(f"  {title}: {self._listed(part, found)}")
        return "\n".join(lines)

    def _listed(self, part: str, keys: list[str]) -> str:
        shown = ", ".join(keys[:SHOWN])
        if len(keys) <= SHOWN:
            return shown
        number = self.numbers.get(part, 0)
        total = f"all {number}" if number == len(keys) and keys[0] in self.missing else f"{len(keys)} in all"
        return f"{shown}, ... ({total}{f' of the {part}' if part else ''})"


def compare(path: Path, own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> LoadReport:
    """The weights of a file beside a model's own, both by the model's keys."""
    both = [key for key in own if key in weights]
    report = LoadReport(
        path,
        missing=[key for key in own if key not in weights],
        unexpected=[key for key in weights if key not in own],
        shapes=[
            f"{key} {tuple(weights[key].shape)} for {tuple(own[key].shape)}"
            for key in both
            if weights[key].shape != own[key].shape
        ],
        dtypes=[
            f"{key} {_name(weights[key])} for {_name(own[key])}"
            for key in both
            if weights[key].is_floating_point() != own[key].is_floating_point()
        ],
        numbers={part: len(keys) for part, keys in by_part(own).items()},
    )
    report.likely.extend(() if report.fits else reasons(report, own, weights))
    return report


def reasons(report: LoadReport, own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Iterator[str]:
    """What is likely wrong, in the order in which one would try; nothing where there is no telling."""
    claims = recognise(shapes_of(weights))
    if claims and not claims[0].whole and (form := claims[0].form):
        yield f"it is {form.title}, not a model{f'; {form.remedy}' if form.remedy else ''}"
        return
    if any(".lora_" in key for key in report.unexpected):
        yield "it has an adapter: give the model the same, or merge it (sgm convert lora --to merged)"
        return
    theirs = [model for claim in claims for model in claim.models]
    ours = identify(shapes_of(own))
    if theirs and not any(model in ours for model in theirs):
        names = " or ".join(model.title for model in theirs)
        configs = " or ".join(model.config for model in theirs if model.config)
        yield f"it is {names}; " + (f"use the config {configs}" if configs else "no config of it is shipped")
        return
    present, expected = by_part(weights), by_part(own)
    absent = [part for part in expected if part and part not in present]
    if absent and set(present) & set(expected):
        yield f"it has only the {_and(list(present))}, and nothing of the {_and(absent)}"
    elif report.shapes and not report.missing and not report.unexpected:
        parts = dict.fromkeys(part_of(line) for line in report.shapes)
        yield f"the same model in another width or depth: compare the config's {_and([p for p in parts if p])}"


def _and(names: Sequence[str]) -> str:
    names = [name for name in names if name]
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:]))) or "model"


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
