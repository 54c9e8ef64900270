"""Handwritten digits with captions: something to train a text-conditioned model on at once, with no download."""

from __future__ import annotations

import re
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt, Le

from sgm_core.shapes import Shape
from sgm_plugins.datamodules.digits import InMemory, split_digits
from sgm_plugins.datamodules.epoch_loader import Rows
from sgm_plugins.datamodules.split_data import SplitData

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

WORDINGS = (
    "a handwritten {word}",
    "the digit {digit}",
    "number {word} written by hand",
    "a picture of the numeral {digit}",
    "someone wrote a {word} here",
    "{word}",
)

HELD_OUT = ("please draw the figure {word} with a pen",)

CAPTIONS = 1  # sets the draws of captions apart from those of the order of images, which have the same seed


class DigitsCaptions(SplitData):
    """The images of `digits`, each with a caption in one of several wordings.

    Batches are {"image": (b, 1, 8, 8) float32 in [-1, 1], "cls": (b,) int64, "caption": a list of b strings}. In each
    epoch of training an image has another wording, drawn from (seed, epoch, image) alone. In validation it has always
    the same, one of those that training never shows.

    Args:
        batch_size: images of a batch, on each device. Training leaves out the incomplete last batch.
        wordings: the captions of training; "{word}" in them stands for the digit's name, "{digit}" for itself.
        held_out: the captions of validation, none of them in `wordings`; none at all: those of training.
        train_fraction: the part to train on; the rest is for validation. It is the same part as that of `digits`.
        num_workers: processes that load ahead; the data is in memory, so they gain nothing here.
        seed: of the order in which an epoch visits the images, and of the choice of wordings.

    Raises:
        ValueError: no wordings; one that does not name the digit, or is in both lists.
        SgmError: a batch is larger than the training part (when the loader is made).
    """

    def __init__(
        self,
        batch_size: Annotated[int, Ge(1)] = 128,
        wordings: tuple[str, ...] = WORDINGS,
        held_out: tuple[str, ...] = HELD_OUT,
        train_fraction: Annotated[float, Gt(0), Le(1)] = 0.8,
        num_workers: Annotated[int, Ge(0)] = 0,
        seed: Annotated[int, Ge(0)] = 0,
    ) -> None:
        super().__init__(batch_size, num_workers, seed)
        if not wordings:
            raise ValueError("wordings is empty: give at least one, such as 'a handwritten {word}'")
        for text in (*wordings, *held_out):
            if set(re.findall(r"\{.*?\}|[{}]", text)) not in ({"{word}"}, {"{digit}"}, {"{word}", "{digit}"}):
                raise ValueError(
                    f"wording {text!r} must name the digit, as {{word}} or {{digit}}, and have no other braces"
                )
            if text in wordings and text in held_out:
                raise ValueError(f"wording {text!r} is in wordings and in held_out: leave it in one of them")
        self.wordings = wordings
        self.held_out = held_out
        self.train_fraction = train_fraction

    @staticmethod
    def shapes() -> dict[str, Shape | None]:
        return {"image": (1, 8, 8), "cls": (), "caption": None}

    def load_parts(self) -> tuple[_Captioned, _Captioned]:
        train, rest = split_digits(self.train_fraction)
        return (
            _Captioned(train, self.wordings, self.seed, anew=True),
            _Captioned(rest, self.held_out or self.wordings, self.seed, anew=False),
        )

    def receive(self, loaded: Any, last: bool) -> dict[str, Any]:
        batch: dict[str, Any] = loaded
        return batch


class _Captioned:
    """A part with captions, drawn `anew` in each epoch or once and for all."""

    def __init__(self, part: InMemory, wordings: tuple[str, ...], seed: int, *, anew: bool) -> None:
        self.part = part
        self.wordings = wordings
        self.seed = seed
        self.anew = anew

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, rows: Rows) -> dict[str, Any]:
        batch = self.part[rows]
        draws = np.random.default_rng((self.seed, rows.epoch if self.anew else 0, CAPTIONS))
        choice = draws.integers(len(self.wordings), size=len(self.part))
        labels = batch["cls"].tolist()
        captions = [caption(self.wordings[choice[row]], label) for row, label in zip(rows, labels, strict=True)]
        return {**batch, "caption": captions}


def caption(wording: str, digit: int) -> str:
    """The caption of a digit in a wording."""
    return wording.replace("{word}", WORDS[digit]).replace("{digit}", str(digit))
