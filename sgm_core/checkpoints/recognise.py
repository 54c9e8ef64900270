"""Which family a file is of, by its keys and shapes: the installed families are asked. No torch is needed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from sgm_core.checkpoints.family import Family, Form, Model, Rule, Shapes, expanded
from sgm_core.checkpoints.layouts import OWN, own_averages
from sgm_core.registry import BUILTIN, Entry, index

T = TypeVar("T")

UNKNOWN = Form("unknown", "weights in a layout that is not known here", ())


class Claim(NamedTuple):
    """What a family says of a file.

    Attributes:
        name: of the family, in the registry.
        family: itself.
        form: of the file; None where the family knows it by its network alone.
        models: those that it may be; several where keys cannot tell.
    """

    name: str
    family: Family
    form: Form | None
    models: list[Model]

    @property
    def whole(self) -> bool:
        """Whether such a file is a model, and not something on top of one, or a part of one."""
        return bool(self.family.models) and not (self.form is not None and self.form.remedy)


def name_of(entry: Entry) -> str:
    """The name of a family in the registry; a plugin's with its distribution."""
    return entry.name if entry.distribution == BUILTIN else entry.qualified


def ask(question: Callable[[Family], T], names: Container[str] | None = None) -> Iterator[tuple[Entry, Family, T]]:
    """What each installed family answers. A family of a plugin that fails is left out, with a warning that names it.

    Args:
        names: of those that are asked; None: all.
    """
    for entry in index.entries("families"):
        if names is not None and name_of(entry) not in names:
            continue
        try:
            family: Family = index.load(entry)()
            answer = question(family)
        except (Exception, SystemExit) as error:
            if entry.distribution == BUILTIN:
                raise
            warnings.warn(f"{entry.plugin}: its family is left out: {error}", stacklevel=2)
        else:
            yield entry, family, answer


def recognise(shapes: Shapes, told: Mapping[str, Any] | None = None) -> list[Claim]:
    """What the installed families say of a file; those whose file is a whole model first.

    Args:
        shapes: of a file in any form, or of a model's state dict.
        told: the JSON files of a folder, see `Family.choose`.
    """

    def question(family: Family) -> tuple[Form | None, list[Model]]:
        form = family.recognises(shapes)
        if not family.models:
            return form, []
        ours: Shapes = shapes if form is None or form.name == OWN.name else renamed(family, form, shapes)
        found = [model for model in family.models if model.fits(ours)]
        return form, list(family.choose(found, told)) if told is not None and len(found) > 1 else found

    found = [
        Claim(name_of(entry), family, form, models)
        for entry, family, (form, models) in ask(question)
        if form is not None or models
    ]
    return sorted(found, key=lambda claim: (not claim.whole, not claim.models, claim.form is None))


def identify(shapes: Shapes) -> list[Model]:
    """The published models whose keys and shapes these are: none, one, or several that cannot be told apart. A file of
    a network alone is of its model, too."""
    return [model for claim in recognise(shapes) for model in claim.models]


def form_of(claims: Iterable[Claim], shapes: Shapes) -> Form:
    """The form of a file that families claim so."""
    return next((claim.form for claim in claims if claim.form), OWN if OWN.fits(shapes) else UNKNOWN)


def renamed(family: Family, form: Form, values: Mapping[str, T]) -> dict[str, T]:
    """What a file of a form holds by our keys, where no tensor has to be changed."""
    pieces, _ = expanded(family.rules(form.name, values), values)
    return {piece.ours: values[piece.theirs] for piece in pieces if is_name(piece)}


def is_name(piece: Rule) -> bool:
    """Whether theirs is ours, under another name."""
    return piece.rows is None and piece.their_rows is None and not piece.change


def own_names(shapes: Shapes, names: Iterable[str] = (), claims: Sequence[Claim] | None = None) -> dict[str, str]:
    """Our name of each key of a file. What has no place in our layout, or is not a tensor of ours, keeps its name.

    Args:
        names: of the model's weights, where they are known: see `own_averages`.
        claims: what `recognise` says of the file, if it was asked before.
    """
    found = own_averages(shapes, names)
    claim = next(iter(recognise(shapes) if claims is None else claims), None)
    if claim is not None and claim.whole and claim.form is not None and claim.form.name != OWN.name:
        pieces, _ = expanded(claim.family.rules(claim.form.name, shapes), shapes)
        found |= {piece.theirs: piece.ours for piece in pieces if is_name(piece)}
    return found
