"""What `sgm data check` asks of a datamodule, and gets.

A datamodule that can say what is wrong with its data has a method `report`, see `Reports`; it is not asked for more.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable


class Spread(NamedTuple):
    """How numbers are spread."""

    least: float
    median: float
    most: float

    @classmethod
    def of(cls, numbers: Iterable[float]) -> Spread | None:
        """None where there are none."""
        numbers = list(numbers)
        return cls(min(numbers), statistics.median(numbers), max(numbers)) if numbers else None


@dataclass
class Tokens:
    """The texts, as one embedder counts them.

    Attributes:
        limit: tokens that it takes.
        longest: of a text.
        cut: samples whose text has more, name -> what is cut off.
    """

    limit: int
    longest: int = 0
    cut: dict[str, str] = field(default_factory=dict)


@dataclass
class DataReport:
    """A dataset, examined.

    Attributes:
        title: what it is: "image folder photos".
        samples: how many there are, bad ones included.
        bad: those that cannot be used, name -> reason.
        max_bad: the share of bad samples, 0 to 1, that the datamodule puts up with.
        formats: how many samples there are of each file format.
        modes, profiles: how many there are of each mode of colours, and of each colour profile, which becomes sRGB.
        sizes: "height", "width" in pixels and "megapixels" of the samples that can be used.
        buckets: how many of them go to each bucket, "height x width" -> number.
        captions: lengths of the captions that are not empty, in characters; None without captions.
        missing_captions: the samples that have none; None where the config asks for none.
        duplicates: groups of samples whose pictures are the same.
        classes: of each entry whose numbers have names, how many samples there are of each.
        passed_over: reason -> names of files that are no samples.
        refused: samples that an embedder of the model refuses, which ends a training, name -> reason.
        tokens: of each embedder that counts them, how many tokens the texts have, and which are cut.
        problems: what would end a training before its first step.
        notes: whatever else should be known, a line each.
    """

    title: str
    samples: int
    max_bad: float
    bad: Mapping[str, str] = field(default_factory=dict)
    formats: Mapping[str, int] = field(default_factory=dict)
    modes: Mapping[str, int] = field(default_factory=dict)
    profiles: Mapping[str, int] = field(default_factory=dict)
    sizes: Mapping[str, Spread] = field(default_factory=dict)
    buckets: Mapping[str, int] = field(default_factory=dict)
    captions: Spread | None = None
    missing_captions: Sequence[str] | None = None
    duplicates: Sequence[Sequence[str]] = ()
    notes: Sequence[str] = ()
    classes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    passed_over: Mapping[str, Sequence[str]] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    tokens: Mapping[str, Tokens] = field(default_factory=dict)
    problems: Sequence[str] = ()

    @property
    def too_bad(self) -> bool:
        """Whether more samples are bad than may be."""
        return len(self.bad) > self.max_bad * self.samples

    @property
    def fails(self) -> bool:
        """Whether training on it would end with an error."""
        return bool(self.too_bad or self.problems or self.refused)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        facts = asdict(self)
        facts["sizes"] = {name: spread._asdict() for name, spread in self.sizes.items()}
        facts["passed_over"] = {reason: list(names) for reason, names in self.passed_over.items()}
        facts["captions"] = None if self.captions is None else self.captions._asdict()
        return facts | {"too_bad": self.too_bad, "fails": self.fails}


@runtime_checkable
class Reports(Protocol):
    """A datamodule that can examine its data."""

    def report(self, progress: Callable[[int, int], None] | None = None) -> DataReport:
        """Read all of it; `progress(done, total)` is called on the way. What is wrong is in the report, not raised.

        With a parameter `ask`, it also calls `ask(name, entries)` for each sample that can be used.
        """


def data_lines(data: Mapping[str, Any]) -> list[str]:
    """What a model was trained on: samples, classes in the order of their numbers, columns."""
    lines = [f"{data['samples']} samples"] if isinstance(data.get("samples"), int) else []
    for what in ("classes", "columns"):
        for entry, told in data[what].items() if isinstance(data.get(what), dict) else ():
            names = list(map(str, told)) if isinstance(told, list) else [str(told)]
            more = f", ... ({len(names)})" if len(names) > 10 else ""
            lines.append(f"{entry}: {', '.join(names[:10])}{more}"[:200])
    return lines
