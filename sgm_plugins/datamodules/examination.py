"""Every sample of a source, read once: what is broken, double, without a caption, and how large all of it is."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from sgm_core.pictures.files import read_header
from sgm_plugins.datamodules.buckets import nearest
from sgm_plugins.datamodules.epoch_loader import loaded
from sgm_plugins.datamodules.image_samples import BAD, Framing, Judge
from sgm_plugins.datamodules.report import DataReport, Spread


class Finding(NamedTuple):
    """What one sample is."""

    row: int
    problem: str = ""
    format: str = ""
    size: tuple[int, int] = (0, 0)
    mode: str = ""
    profile: str = ""
    digest: bytes = b""
    caption: str | None = None
    entries: Mapping[str, Any] = {}


class Samples:
    """Findings, by row: a dataset for worker processes."""

    def __init__(self, judge: Judge, framing: Framing) -> None:
        self.judge = judge
        self.source = judge.source
        self.framing = framing

    def __len__(self) -> int:
        return len(self.source.names)

    def __getitem__(self, row: int) -> Finding:
        try:
            header = read_header(self.source.file(row), self.framing.max_pixels)
            picture, entries = self.judge.load(row, self.framing, (self.framing.size, self.framing.size))
        except BAD as error:
            return Finding(row, str(error))
        # the same pixels are the same picture, whatever file they are in
        digest = hashlib.sha256(repr(header.size).encode() + picture.image.numpy().tobytes()).digest()
        caption = entries.get("txt")
        text = caption if isinstance(caption, str) else None
        return Finding(row, "", header.format, header.size, header.mode, header.profile, digest, text, entries)


def examine(
    title: str,
    judge: Judge,
    framing: Framing,
    buckets: Sequence[tuple[int, int]],
    max_bad: float,
    num_workers: int,
    progress: Callable[[int, int], None] | None,
    class_names: Mapping[str, Sequence[str]],
    ask: Callable[[str, Mapping[str, Any]], None] | None,
) -> DataReport:
    """Read every sample as training would.

    Args:
        title: of the report.
        judge: of the samples.
        framing: how they are read.
        buckets: (height, width) of each; none means no histogram.
        max_bad: the share that may be bad.
        num_workers: processes that read; 0 means this one.
        progress: called as progress(done, total).
        class_names: entry -> what its numbers count.
        ask: called as ask(name, entries) for each sample that can be used.
    """
    samples, names = Samples(judge, framing), judge.source.names
    findings, classes = [], {entry: Counter[str]() for entry in class_names}
    for finding in loaded(samples, range(len(samples)), num_workers):
        if not finding.problem:
            for entry, known in class_names.items():
                number = finding.entries[entry]
                fits = isinstance(number, int) and 0 <= number < len(known)
                classes[entry][known[number] if fits else str(number)] += 1
            if ask is not None:
                ask(names[finding.row], finding.entries)
        findings.append(finding._replace(entries={}))
        if progress is not None:
            progress(len(findings), len(samples))
    report = _report(title, names, findings, buckets, max_bad)
    report.classes = {entry: dict(sorted(counts.items())) for entry, counts in classes.items()}
    return report


def _report(
    title: str,
    names: Sequence[str],
    findings: Sequence[Finding],
    buckets: Sequence[tuple[int, int]],
    max_bad: float,
) -> DataReport:
    good = [finding for finding in findings if not finding.problem]
    alike: dict[bytes, list[str]] = {}
    for finding in findings:
        if finding.digest:
            alike.setdefault(finding.digest, []).append(names[finding.row])
    captions = [finding for finding in good if finding.caption is not None]
    spreads = {
        "height": Spread.of(finding.size[0] for finding in good),
        "width": Spread.of(finding.size[1] for finding in good),
        "megapixels": Spread.of(finding.size[0] * finding.size[1] / 1e6 for finding in good),
    }
    histogram: dict[str, int] = {}
    if buckets and good:
        counts = Counter(nearest(buckets, [finding.size for finding in good]).tolist())
        histogram = {f"{h}x{w}": counts[number] for number, (h, w) in enumerate(buckets)}
    return DataReport(
        title=title,
        samples=len(names),
        max_bad=max_bad,
        bad={names[finding.row]: finding.problem for finding in findings if finding.problem},
        formats=dict(Counter(finding.format for finding in good).most_common()),
        modes=dict(Counter(finding.mode for finding in good).most_common()),
        profiles=dict(Counter(finding.profile for finding in good if finding.profile).most_common()),
        sizes={name: spread for name, spread in spreads.items() if spread is not None},
        buckets=histogram,
        captions=Spread.of(len(finding.caption) for finding in captions if finding.caption),
        missing_captions=[names[f.row] for f in captions if not f.caption] if captions else None,
        duplicates=[group for group in alike.values() if len(group) > 1],
    )
