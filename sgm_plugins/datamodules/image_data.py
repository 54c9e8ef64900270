"""What the data modules of images share: framing, buckets, the split, and what becomes of bad samples."""

from __future__ import annotations

import hashlib
import os
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sgm_core.errors import SgmError
from sgm_core.pictures.files import read_header
from sgm_core.shapes import Shape
from sgm_plugins.datamodules.bad_samples import BadSamples, listing
from sgm_plugins.datamodules.buckets import Buckets, fill, nearest
from sgm_plugins.datamodules.examination import examine
from sgm_plugins.datamodules.image_samples import BAD, SIZES, Framing, Images, ImageSource, Judge, kind_of
from sgm_plugins.datamodules.report import DataReport
from sgm_plugins.datamodules.split_data import SplitData
from sgm_plugins.datamodules.walk import UNUSED, summary


class ImageData(SplitData):
    """Images of a source, in two parts that depend on the samples' names alone.

    Args:
        framing: how an image becomes one of a batch; validation is neither cropped at random nor flipped.
        buckets: batches of several shapes; None means squares.
        batch_size, num_workers, seed: see `SplitData`.
        train_fraction: the part to train on.
        max_bad: the share of samples that may be bad.
    """

    def __init__(
        self,
        framing: Framing,
        buckets: Buckets | None,
        batch_size: int,
        train_fraction: float,
        max_bad: float,
        num_workers: int,
        seed: int,
    ) -> None:
        super().__init__(batch_size, num_workers, seed)
        self.framing = framing
        self.buckets = buckets
        self.bucket_shapes = [] if buckets is None else buckets.shapes(framing.size)
        self.train_fraction = train_fraction
        self.max_bad = max_bad

    @property
    @abstractmethod
    def source(self) -> ImageSource:
        """Where the samples come from; made when the data is first needed, and kept."""

    @property
    @abstractmethod
    def title(self) -> str:
        """What messages begin with: "image folder photos"."""

    @property
    def passed_over(self) -> Mapping[str, Sequence[str]]:
        """Reason -> names of what lies where the samples do, and is none."""
        return {}

    @property
    def class_names(self) -> Mapping[str, Sequence[str]]:
        """Entry -> the names of what its numbers count, where they are known."""
        return {}

    @property
    def notes(self) -> Sequence[str]:
        """What else the check should say, a line each."""
        return ()

    @cached_property
    def judge(self) -> tuple[Judge, dict[str, str]]:
        """Who accepts samples, and the bad ones before the first that is accepted.

        Raises:
            SgmError: there is none.
        """
        judge, bad = Judge(self.source), dict[str, str]()
        for row, name in enumerate(self.source.names):
            try:
                _, entries = judge.load(row, self.framing, (self.framing.size, self.framing.size))
            except BAD as error:
                bad[name] = str(error)
                continue
            return replace(judge, like={key: kind_of(value, key) for key, value in entries.items()}, first=name), bad
        raise SgmError(f"{self.title}: none of {len(bad)} images can be used: {listing(bad)}")

    @cached_property
    def bad_samples(self) -> BadSamples:
        """Those that were met so far: name -> reason."""
        return BadSamples(self.title, "image files", len(self.source.names), self.max_bad)

    def setup(self, stage: str) -> None:
        """Find out what is wrong with the data before anything else starts; list bad samples in the run's folder."""
        if self.trainer is not None:
            self.bad_samples.write_to(Path(self.trainer.default_root_dir))
        super().setup(stage)
        passed = {reason: names for reason, names in self.passed_over.items() if reason != UNUSED}
        if passed:
            warnings.warn(
                f"{self.title}: {len(self.source.names)} images are read; {sum(map(len, passed.values()))} other files "
                f"and folders are passed over: {summary(passed)}",
                stacklevel=2,
            )

    def load_parts(self) -> tuple[Images, Images]:
        names = self.source.names
        rows, sizes = np.arange(len(names)), None
        _, bad = self.judge
        self.bad_samples.meet(bad)
        if self.buckets is not None:
            rows, sizes = self._sizes()

        def by_hash(row: int) -> bytes:
            return hashlib.sha256(os.fsencode(names[row])).digest()

        n_train = max(1, round(self.train_fraction * len(rows)))
        chosen = np.zeros(len(names), dtype=bool)
        chosen[sorted(rows.tolist(), key=by_hash)[:n_train]] = True
        train = chosen[rows]
        plain = replace(self.framing, random_crop=False, flip=0.0)
        return (
            self._images(rows[train], self.framing, None if sizes is None else sizes[train], self.batch_size),
            self._images(rows[~train], plain, None if sizes is None else sizes[~train], 1),
        )

    def _images(self, rows: NDArray[np.int64], framing: Framing, sizes: NDArray[np.int64] | None, least: int) -> Images:
        judge, _ = self.judge
        if sizes is None:
            return Images(judge, rows, framing)
        if not len(rows):
            return Images(judge, rows, framing, [])
        numbers = fill(nearest(self.bucket_shapes, sizes), self.bucket_shapes, least)
        return Images(judge, rows, framing, [self.bucket_shapes[number] for number in numbers])

    def _sizes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows whose files have a readable header, and the (height, width) of each."""
        rows, sizes, bad = [], [], {}
        for row, name in enumerate(self.source.names):
            try:
                sizes.append(read_header(self.source.file(row), self.framing.max_pixels).size)
                rows.append(row)
            except BAD as error:
                bad[name] = str(error)
        if not rows:
            raise SgmError(f"{self.title}: none of {len(self.source.names)} images can be used: {listing(bad)}")
        self.bad_samples.meet(bad)
        return np.array(rows), np.array(sizes)

    def receive(self, loaded: Any, last: bool) -> dict[str, Any]:
        """The batch alone; the bad samples that came with it are kept, and reported at the end of an epoch."""
        batch: dict[str, Any]
        batch, bad = loaded
        self.bad_samples.meet(bad)
        if last:
            self.bad_samples.report()
        return batch

    def teardown(self, stage: str) -> None:
        """Also: report the bad samples of an epoch that was not finished."""
        super().teardown(stage)
        self.bad_samples.report()

    def report(
        self,
        progress: Callable[[int, int], None] | None = None,
        ask: Callable[[str, Mapping[str, Any]], None] | None = None,
    ) -> DataReport:
        """Read all samples, and say what is in them and what is wrong with them: `sgm data check`."""
        judge, _ = self.judge
        report = examine(
            self.title,
            judge,
            self.framing,
            self.bucket_shapes,
            self.max_bad,
            self.num_workers,
            progress,
            self.class_names,
            ask,
        )
        report.passed_over = self.passed_over
        report.notes = self.notes
        report.problems = self.problems()
        return report

    def state_dict(self) -> dict[str, Any]:
        """What was found in the data: a checkpoint keeps it."""
        return {"facts": self.facts()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare; `sgm train --resume` refuses other data before it comes to this."""
        was, now = state_dict.get("facts", {}), self.facts()
        changed = [key for key in now if was.get(key, now[key]) != now[key]]
        if changed:
            warnings.warn(f"{self.title}: not as it was when the run began: {', '.join(changed)} differ", stacklevel=2)

    def facts(self) -> dict[str, Any]:
        """What a resumed run relies on: the number of samples, a digest of their names, classes and columns."""
        digest = hashlib.sha256()
        for name in self.source.names:
            digest.update(os.fsencode(name) + b"\0")
        judge, _ = self.judge
        return {
            "samples": len(self.source.names),
            "names_sha256": digest.hexdigest(),
            "classes": {entry: list(names) for entry, names in self.class_names.items()},
            "columns": dict(judge.like),
        }


def entry_shapes(
    size: int, channels: int, sizes: bool, buckets: Any, columns: dict[str, str] | None, mask: str | None
) -> dict[str, Shape | None]:
    """The entries that all of them have; what is in columns is not known."""
    side = size if buckets is None else None
    shapes: dict[str, Shape | None] = {"image": (channels, side, side), **dict.fromkeys(columns or ())}
    if sizes:
        shapes |= dict.fromkeys(SIZES, (2,))
    if mask:
        shapes["mask"] = (1, side, side)
    return shapes


Value = TypeVar("Value")


def check_columns(
    columns: dict[str, Value], taken: tuple[str, ...] = (), argument: str = "columns"
) -> dict[str, Value]:
    """The columns as they are, or what else is given by the names of entries.

    Raises:
        ValueError: one would replace an entry that is made from the images, or another that is asked for.
    """
    for entry in columns:
        if entry in ("image", *SIZES, *taken):
            raise ValueError(f"{argument}: '{entry}' is an entry that this data makes itself; call it something else")
    return columns
