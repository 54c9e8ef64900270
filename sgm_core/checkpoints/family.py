"""A family of public models, as plain data and small functions. Standard library only: recognising a file needs no
torch."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

Shapes = Mapping[str, Sequence[int]]
"""Tensors of a file, by key. Of a folder each key begins with its sub-folder: `unet.conv_in.weight`."""


class Form(NamedTuple):
    """One way in which files of a family are written.

    Attributes:
        name: short: "ldm", "diffusers", "original". `own` is the layout of this project, see `layouts`.
        title: what such a file is, for people.
        has: regular expressions; each matches the beginning of some key of every such file.
        lacks: regular expressions that match the beginning of no key of it.
        remedy: the way out, where such a file is no model: a LoRA, a text encoder alone.
        parts: the sub-folders with weights, of a form that is a folder; empty for one file.
    """

    name: str
    title: str
    has: tuple[str, ...]
    lacks: tuple[str, ...] = ()
    remedy: str = ""
    parts: tuple[str, ...] = ()

    def fits(self, keys: Collection[str]) -> bool:
        """Whether a file with these keys is written so."""

        def some(pattern: str) -> bool:
            match = re.compile(pattern).match
            return any(match(key) for key in keys)

        return all(map(some, self.has)) and not any(map(some, self.lacks))


class Model(NamedTuple):
    """A published model of a family.

    Attributes:
        title: for people.
        config: the name of the config that builds it; empty where there is none.
        shapes: what tells it from others, by our keys. None: there is no such key. What a file has nothing of at all,
            such as a first stage, does not count, but the network does.
        reason: why there is no config.
    """

    title: str
    config: str = ""
    shapes: Mapping[str, Sequence[int] | None] = {}
    reason: str = ""

    def fits(self, shapes: Shapes) -> bool:
        """Whether these are its shapes, by our keys."""
        parts = {"model", *(key.partition(".")[0] for key in shapes)}
        return bool(self.shapes) and all(
            (None if key not in shapes else tuple(shapes[key])) == (None if shape is None else tuple(shape))
            for key, shape in self.shapes.items()
            if key.partition(".")[0] in parts
        )


Rows = tuple[int, int, int]
"""Of the first axis of a tensor: from, to, of how many equal parts. (1, 2, 3) is the second third."""


class Rule(NamedTuple):
    """A module or a tensor, here and in another form. What lies below a module keeps its name.

    Attributes:
        ours: here, with its part: `model.diffusion_model.time_embed.0`.
        theirs: there: `unet.time_embedding.linear_1`; "" stands in front of all keys.
        rows: the rows of our tensor that theirs is, where ours holds several of theirs.
        their_rows: the rows of their tensor that ours is.
        change: "transposed", both axes swapped; "pointwise", a matrix there is a convolution of one pixel here.
    """

    ours: str
    theirs: str
    rows: Rows | None = None
    their_rows: Rows | None = None
    change: Literal["", "transposed", "pointwise"] = ""

    @property
    def is_name(self) -> bool:
        """Whether theirs is ours, under another name."""
        return self.rows is None and self.their_rows is None and not self.change


class Filled(NamedTuple):
    """A tensor that a form leaves out, as nothing computes with it: its shape, and the value of all its numbers."""

    shape: tuple[int, ...]
    value: float = 0.0


class Folder(NamedTuple):
    """What a folder of diffusers holds beside weights: JSON by path, and sub-folders to copy (None: there is none)."""

    settings: Mapping[str, Mapping[str, Any]]
    copies: Mapping[str, Path | None] = {}


@dataclass(frozen=True)
class Request:
    """What is to be drawn.

    Attributes:
        width, height: of the pictures, in pixels.
        frames: of a clip; 1 for images.
        options: what the user chose of `Family.options`, by the option's name.
    """

    width: int
    height: int
    frames: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)


class Family:
    """The role of the kind `families`. A subclass sets the attributes that it needs; no method must be overridden.

    Attributes:
        title: for people.
        license: of the published weights, in a line.
        forms: how its files are written; the first that fits is taken.
        models: those that were published. A family without any is recognised only.
        tables: by form, our modules -> theirs, where no key decides about the names; see `rules`.
        lora_forms: the forms whose names files of LoRA use, beside ours.
        lora_prefixes: how names in such files begin -> `unet_` for the network, `te1_` for the first text encoder.
        prompt: the batch entry that a prompt is.
        options: options of `sgm sample` that the family reads, by the batch entry that they set.
        images: entries that are the image of `--init`, to make a video of -> the entry with the standard deviation of
            the noise in it, or "".
        sampler: the config of a sampler, for models whose config has none.
    """

    title: ClassVar[str] = ""
    license: ClassVar[str] = ""
    forms: ClassVar[tuple[Form, ...]] = ()
    models: ClassVar[tuple[Model, ...]] = ()
    tables: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    lora_forms: ClassVar[tuple[str, ...]] = ()
    lora_prefixes: ClassVar[Mapping[str, str]] = {}
    prompt: ClassVar[str] = "txt"
    options: ClassVar[Mapping[str, str]] = {}
    images: ClassVar[Mapping[str, str]] = {}
    sampler: ClassVar[Mapping[str, Any]] = {}

    def recognises(self, shapes: Shapes) -> Form | None:
        """The form of a file, of any width; None where it is of another family."""
        return next((form for form in self.forms if form.fits(shapes)), None)

    def choose(self, models: Sequence[Model], told: Mapping[str, Any]) -> Sequence[Model]:
        """Those of several models with the same keys and shapes that fit the JSON files of a folder, by path without
        `.json`: `scheduler/scheduler_config`."""
        return models

    def rules(self, form: str, keys: Collection[str]) -> Iterable[Rule]:
        """What is called how in a form.

        Args:
            form: one of `forms`, but `own`.
            keys: all keys of a file, of either side: they say how many blocks there are.
        """
        return [Rule(ours, theirs) for ours, theirs in self.tables.get(form, {}).items()]

    def filled(self, form: str, shapes: Shapes) -> Mapping[str, Filled]:
        """What a form leaves out and our model has, by our keys.

        Args:
            shapes: of what there is, by our keys.
        """
        return {}

    def folder(self, form: str, shapes: Shapes, config: Mapping[str, Any]) -> Folder | None:
        """The files beside the weights, of a form that is a folder; None where the family cannot be written so.

        Args:
            shapes: of the model's tensors, by our keys.
            config: of the model, as plain data: `config["model"]["network"]`.

        Raises:
            SgmError: this very model cannot be written so.
        """
        return None

    def lora_names(self, keys: Collection[str]) -> Iterable[Rule]:
        """What files of LoRA call the layers of a model, by its keys; a part's name is the first word of theirs."""
        return [piece for form in self.lora_forms for piece in expanded(self.rules(form, keys), keys, back=True)[0]]

    def entries(self, request: Request) -> Mapping[str, Any]:
        """The batch entries that the conditioner reads beside the prompt: a number or a tuple of numbers, or a list of
        these with one per frame.

        Raises:
            SgmError: an option that makes no sense.
        """
        return {}

    def away(self, request: Request) -> Mapping[str, Any]:
        """Those entries that guidance moves away from with another value."""
        return {}


def expanded(rules: Iterable[Rule], keys: Iterable[str], back: bool = False) -> tuple[list[Rule], list[str]]:
    """The rules for single tensors, and the keys that no rule is for. The rule of the longest module counts.

    Args:
        keys: theirs; ours if `back`.
    """
    table: dict[str, list[Rule]] = {}
    for rule in rules:
        table.setdefault(rule.ours if back else rule.theirs, []).append(rule)
    found: list[Rule] = []
    unknown: list[str] = []
    for key in keys:
        start = key
        while start not in table and start:
            start = start.rpartition(".")[0]
        below = key[len(start) :].removeprefix(".")
        found += [
            rule._replace(ours=_below(rule.ours, below), theirs=_below(rule.theirs, below))
            for rule in table.get(start, ())
        ]
        if start not in table:
            unknown.append(key)
    return found, unknown


def _below(module: str, rest: str) -> str:
    return f"{module}.{rest}" if module and rest else module or rest
