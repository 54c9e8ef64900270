"""Which family a file is of, by its keys and shapes: the installed families are asked. No torch is needed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from sgm_core.checkpoints.family import Family, Form, Model, Rule, Shapes, expanded
from sgm_core.checkpoints.layouts import AVERAGE, OWN, SHADOW
from sgm_core.registry import BUILTIN, index

T = TypeVar("T")


class Claim(NamedTuple):
    """What a family says of a file."""

    name: str  # of the family, in the registry; a plugin's with its distribution
    family: Family
    form: Form | None  # None if the family knows the file by its network alone
    models: Sequence[Model] = ()  # several if keys cannot tell

    @property
    def whole(self) -> bool:
        """Whether such a file is a model, not an addition to one or a part of one."""
        return bool(self.family.models) and not (self.form is not None and self.form.remedy)

    def pieces(self, keys: Collection[str]) -> tuple[list[Rule], list[str]]:
        """See `expanded`, by the keys of the file. Empty for a file in our layout."""
        if self.form is None or self.form.name == OWN.name:
            return [], []
        return expanded(self.family.rules(self.form.name, keys), keys)


def ask(question: Callable[[str, Family], T]) -> Iterator[T]:
    """The answer of each installed family, which is asked with its name in the registry: see `Claim`.

    A family of a plugin that fails is left out, with a warning that names it.
    """
    for entry in index.entries("families"):
        try:
            answer = question(entry.name if entry.distribution == BUILTIN else entry.qualified, index.load(entry)())
        except (Exception, SystemExit) as error:
            if entry.distribution == BUILTIN:
                raise
            warnings.warn(f"{entry.plugin}: its family is left out: {error} ({entry.value})", stacklevel=2)
        else:
            yield answer


def recognise(shapes: Shapes, told: Mapping[str, Any] | None = None) -> list[Claim]:
    """What the installed families say of a file; those whose file is a whole model first.

    Args:
        shapes: of a file in any form, or of a model's state dict.
        told: the JSON files of a folder, see `Family.choose`.
    """

    def claimed(name: str, family: Family) -> Claim:
        if told is not None and family.models and not family.choose(family.models, told):
            return Claim(name, family, None)  # the folder says that it is another's
        claim = Claim(name, family, family.recognises(shapes))
        ours = shapes
        if family.models and claim.form is not None and claim.form.name != OWN.name:
            ours = {piece.ours: shapes[piece.theirs] for piece in claim.pieces(shapes)[0] if piece.is_name}
        models = [model for model in family.models if model.fits(ours)]
        return claim._replace(models=family.choose(models, told) if told is not None and len(models) > 1 else models)

    found = [claim for claim in ask(claimed) if claim.form is not None or claim.models]
    return sorted(found, key=lambda claim: (not claim.whole, not claim.models, claim.form is None))


def own_names(shapes: Shapes, names: Iterable[str] = (), claims: Sequence[Claim] | None = None) -> dict[str, str]:
    """Our name of each key of a file. A key keeps its name if our layout has no place for it, or another tensor.

    Args:
        names: of the model's weights, if they are known. generative-models names an average like the parameter in
            `model`, without its dots.
        claims: what `recognise` says of the file, if it was asked before.
    """
    parameters = [key for key in (*shapes, *names) if key.startswith("model.")]
    flat = {AVERAGE + key.removeprefix("model.").replace(".", ""): key for key in parameters}
    found = {key: SHADOW + flat[key] if key in flat and not key.startswith(SHADOW) else key for key in shapes}
    for claim in (recognise(shapes) if claims is None else claims)[:1]:
        if claim.whole:
            found |= {piece.theirs: piece.ours for piece in claim.pieces(shapes)[0] if piece.is_name}
    return found
