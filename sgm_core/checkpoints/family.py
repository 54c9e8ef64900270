"""A family of public models, as plain data and small functions: docs/families.md. Standard library only: recognising a
file needs no torch."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

Shapes = Mapping[str, Sequence[int]]
"""Tensors of a file, by key. In a folder each key begins with its sub-folder: `unet.conv_in.weight`."""


class Form(NamedTuple):
    """One way in which files of a family are written."""

    name: str  # short: "ldm", "diffusers", "original"; "sgm" is the layout of this project
    title: str  # for people
    has: tuple[str, ...]  # regular expressions; each matches the beginning of some key
    lacks: tuple[str, ...] = ()  # regular expressions that match the beginning of no key
    remedy: str = ""  # what to do with a file that is no model: a LoRA, a text encoder alone
    parts: tuple[str, ...] = ()  # the sub-folders with weights, if the form is a folder

    def fits(self, keys: Collection[str]) -> bool:
        """Whether a file with these keys is written so."""

        def some(pattern: str) -> bool:
            return any(map(re.compile(pattern).match, keys))

        return all(map(some, self.has)) and not any(map(some, self.lacks))


class Model(NamedTuple):
    """A published model of a family."""

    title: str  # for people
    config: str = ""  # the name of the config that builds it; empty if there is none
    shapes: Mapping[str, Sequence[int] | None] = {}  # what tells it from others, by our keys; None: no such key
    reason: str = ""  # why there is no config

    def fits(self, shapes: Shapes) -> bool:
        """Whether these are its shapes, by our keys. A part that a file lacks does not count, except the network."""
        parts = {"model", *(key.partition(".")[0] for key in shapes)}
        return bool(self.shapes) and all(
            (None if key not in shapes else tuple(shapes[key])) == (None if shape is None else tuple(shape))
            for key, shape in self.shapes.items()
            if key.partition(".")[0] in parts
        )


Rows = tuple[int, int, int]
"""Of the first axis of a tensor: from, to, of how many equal parts. (1, 2, 3) is the second third."""


class Rule(NamedTuple):
    """A module or a tensor, here and in another form. Everything below a module keeps its name."""

    ours: str  # with its part: "model.diffusion_model.time_embed.0"
    theirs: str  # "unet.time_embedding.linear_1"; "" stands before all keys
    rows: Rows | None = None  # the rows of our tensor that theirs is, if ours holds several of theirs
    their_rows: Rows | None = None  # the rows of their tensor that ours is
    change: Literal["", "transposed", "pointwise"] = ""  # both axes swapped; a matrix there, a 1x1 convolution here

    @property
    def is_name(self) -> bool:
        """Whether only the names differ."""
        return self.rows is None and self.their_rows is None and not self.change


class Request(NamedTuple):
    """A picture to draw, or a clip."""

    width: int  # in pixels
    height: int
    frames: int = 1  # of a clip; 1 for images
    options: Mapping[str, Any] = {}  # what the user chose of `Family.options`, by the option's name


class Found(NamedTuple):
    """What is known of a model beside its tensors."""

    told: Mapping[str, Any] = {}  # the JSON files of a folder of diffusers, by path without `.json`
    places: Mapping[str, Path] = {}  # where a part is, by the name of its sub-folder there: "tokenizer_2"


class Family:
    """The role of the kind `families`. A subclass sets the attributes that it needs; no method must be overridden."""

    title: ClassVar[str] = ""  # for people
    license: ClassVar[str] = ""  # of the published weights, in a line
    forms: ClassVar[tuple[Form, ...]] = ()  # how its files are written; the first that fits is taken
    models: ClassVar[tuple[Model, ...]] = ()  # the published ones; a family without any is only recognised
    tables: ClassVar[Mapping[str, Mapping[str, str]]] = {}  # by form, our modules -> theirs: see `rules`
    lora_forms: ClassVar[tuple[str, ...]] = ()  # the forms whose names LoRA files use, beside ours
    lora_prefixes: ClassVar[Mapping[str, str]] = {}  # of names in such files -> "unet_" (network), "te1_" (first text)
    prompt: ClassVar[str] = "txt"  # the batch entry that a prompt is
    options: ClassVar[Mapping[str, str]] = {}  # options of `sgm sample` -> the entry they set; "": what it has not
    images: ClassVar[Mapping[str, str]] = {}  # entries that are the image of `--init` -> the noise level's entry, or ""
    reference_sizes: ClassVar[Sequence[tuple[int, int]]] = ()  # of pictures that it edits, (width, height) to choose of
    distilled: ClassVar[str] = ""  # of distilled models, what they were distilled to
    sampler: ClassVar[Mapping[str, Any]] = {}  # the config of a sampler, for models whose config has none

    def recognises(self, shapes: Shapes) -> Form | None:
        """The form of a file, of any width; None if it is of another family."""
        return next((form for form in self.forms if form.fits(shapes)), None)

    def choose(self, models: Sequence[Model], told: Mapping[str, Any]) -> Sequence[Model]:
        """Those of several models with the same keys and shapes that fit the JSON files of a folder, by path without
        `.json`: `scheduler/scheduler_config`."""
        return models

    def config(self, form: str, shapes: Shapes, found: Found) -> Mapping[str, Any] | None:
        """The config of a model of any size that is put together from its parts; None: only published models are built.

        Args:
            form: of its files.
            shapes: of its tensors, by the keys of the files; a part in a folder of its own has the prefix of its name.

        Raises:
            SgmError: a part that is missing, or that this family cannot build.
        """
        return None

    def rules(self, form: str, keys: Collection[str]) -> Iterable[Rule]:
        """The names in a form. All keys of a file, of either side, say how many blocks there are."""
        return [Rule(ours, theirs) for ours, theirs in self.tables.get(form, {}).items()]

    def filled(self, form: str, shapes: Shapes) -> Mapping[str, tuple[Sequence[int], float]]:
        """Tensors that a form leaves out because nothing computes with them: shape and value of each, by our keys.

        Args:
            shapes: of the tensors that are there, by our keys.
        """
        return {}

    def folder(self, form: str, shapes: Shapes, config: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The files beside the weights, of a form that is a folder: a JSON object by path without `.json`, and for a
        tokenizer the `Path` of the folder to copy, None if there is none. No files: the family cannot be written so.

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
    """The rules for single tensors, and the keys that have none. The rule of the longest module counts.

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
        if start not in table:
            unknown.append(key)
        below = key[len(start) :].removeprefix(".")
        for rule in table.get(start, ()):
            ours, theirs = (".".join(filter(None, (module, below))) for module in (rule.ours, rule.theirs))
            found.append(rule._replace(ours=ours, theirs=theirs))
    return found, unknown
