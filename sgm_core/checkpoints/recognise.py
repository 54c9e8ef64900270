"""Which family a file is of, by its keys and shapes: the installed families are asked. No torch is needed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from sgm_core.checkpoints.family import Family, Form, Model, Rule, Shapes, expanded
from sgm_core.checkpoints.layouts import OWN, own_averages
from sgm_core.registry import BUILTIN, index

T = TypeVar("T")


class Claim(NamedTuple):
    """What a family says of a file.

    Attributes:
        name: of the family, in the registry; a plugin's with its distribution.
        family: itself.
        form: of the file; None where the family knows it by its network alone.
        models: those that it may be; several where keys cannot tell.
    """

    name: str
    family: Family
    form: Form | None
    models: Sequence[Model] = ()

    @property
    def whole(self) -> bool:
        """Whether such a file is a model, and not something on top of one, or a part of one."""
        return bool(self.family.models) and not (self.form is not None and self.form.remedy)

    def pieces(self, keys: Collection[str]) -> tuple[list[Rule], list[str]]:
        """See `expanded`, by the keys of the file; nothing of a file in our layout."""
        if self.form is None or self.form.name == OWN.name:
            return [], []
        return expanded(self.family.rules(self.form.name, keys), keys)


def ask(question: Callable[[str, Family], T], names: Container[str] | None = None) -> Iterator[T]:
    """What each installed family answers. A family of a plugin that fails is left out, with a warning that names it.

    Args:
        question: is given the family with its name in the registry, see `Claim`.
        names: of those that are asked; None: all.
    """
    for entry in index.entries("families"):
        name = entry.name if entry.distribution == BUILTIN else entry.qualified
        if names is not None and name not in names:
            continue
        try:
            answer = question(name, index.load(entry)())
        except (Exception, SystemExit) as error:
            if entry.distribution == BUILTIN:
                raise
            warnings.warn(f"{entry.plugin}: its family is left out: {error}", stacklevel=2)
        else:
            yield answer


def recognise(shapes: Shapes, told: Mapping[str, Any] | None = None) -> list[Claim]:
    """What the installed families say of a file; those whose file is a whole model first.

    Args:
        shapes: of a file in any form, or of a model's state dict.
        told: the JSON files of a folder, see `Family.choose`.
    """

    def claimed(name: str, family: Family) -> Claim:
        claim = Claim(name, family, family.recognises(shapes))
        ours = shapes
        if family.models and claim.form is not None and claim.form.name != OWN.name:
            ours = {piece.ours: shapes[piece.theirs] for piece in claim.pieces(shapes)[0] if piece.is_name}
        models = [model for model in family.models if model.fits(ours)]
        return claim._replace(models=family.choose(models, told) if told is not None and len(models) > 1 else models)

    found = [claim for claim in ask(claimed) if claim.form is not None or claim.models]
    return sorted(found, key=lambda claim: (not claim.whole, not claim.models, claim.form is None))


def identify(shapes: Shapes) -> list[Model]:
    """The published models whose keys and shapes these are: none, one, or several that cannot be told apart. A file of
    a network alone is of its model, too."""
    return [model for claim in recognise(shapes) for model in claim.models]


def own_names(shapes: Shapes, names: Iterable[str] = (), claims: Sequence[Claim] | None = None) -> dict[str, str]:
    """Our name of each key of a file. What has no place in our layout, or is not a tensor of ours, keeps its name.

    Args:
        names: of the model's weights, where they are known: see `own_averages`.
        claims: what `recognise` says of the file, if it was asked before.
    """
    found = own_averages(shapes, names)
    for claim in (recognise(shapes) if claims is None else claims)[:1]:
        if claim.whole:
            found |= {piece.theirs: piece.ours for piece in claim.pieces(shapes)[0] if piece.is_name}
    return found
