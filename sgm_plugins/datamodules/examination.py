"""Every sample of a source, read once: what is broken, double, without a caption, and how large all of it is."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader

from sgm_core.pictures.files import BadImageError, read_header
from sgm_plugins.datamodules.buckets import nearest
from sgm_plugins.datamodules.image_samples import BadSampleError, Framing, ImageSource
from sgm_plugins.datamodules.report import DataReport, Spread


class Finding(NamedTuple):
    """What one sample is."""

    row: int
    problem: str = ""
    format: str = ""
    size: tuple[int, int] = (0, 0)
    digest: bytes = b""
    caption: str | None = None


class Samples:
    """Findings, by row: a dataset for worker processes."""

    def __init__(self, source: ImageSource, framing: Framing) -> None:
        self.source = source
        self.framing = framing

    def __len__(self) -> int:
        return len(self.source.names)

    def __getitem__(self, row: int) -> Finding:
        digest = b""
        try:
            file = self.source.file(row)
            with file.open("rb") if isinstance(file, Path) else file as stream:
                content = stream.read()
            digest = hashlib.sha256(content).digest()
            header = read_header(BytesIO(content), self.framing.max_pixels)
            self.framing.read(BytesIO(content), (self.framing.size, self.framing.size), epoch=0, row=row)
            caption = self.source.entries(row).get("txt")
        except (BadImageError, BadSampleError, OSError) as error:
            return Finding(row, str(error), digest=digest)
        return Finding(row, "", header.format, header.size, digest, caption if isinstance(caption, str) else None)


def examine(
    title: str,
    source: ImageSource,
    framing: Framing,
    buckets: Sequence[tuple[int, int]],
    max_bad: float,
    num_workers: int,
    progress: Callable[[int, int], None] | None,
    notes: Sequence[str] = (),
) -> DataReport:
    """Read every sample as training would.

    Args:
        title: of the report.
        source: the samples.
        framing: how they are read.
        buckets: (height, width) of each; none means no histogram.
        max_bad: the share that may be bad.
        num_workers: processes that read; 0 means this one.
        progress: called as progress(done, total).
        notes: for the report.
    """
    samples = Samples(source, framing)
    loader: DataLoader[Any] = DataLoader(
        samples,  # type: ignore[arg-type]  # torch's type wants a subclass
        batch_size=None,
        num_workers=num_workers,
        collate_fn=_as_it_is,
        generator=torch.Generator(),
    )
    findings = []
    for finding in loader:
        findings.append(finding)
        if progress is not None:
            progress(len(findings), len(samples))
    return _report(title, source.names, findings, buckets, max_bad, notes)


def _as_it_is(finding: Any) -> Any:
    return finding


def _report(
    title: str,
    names: Sequence[str],
    findings: Sequence[Finding],
    buckets: Sequence[tuple[int, int]],
    max_bad: float,
    notes: Sequence[str],
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
        sizes={name: spread for name, spread in spreads.items() if spread is not None},
        buckets=histogram,
        captions=Spread.of(len(finding.caption) for finding in captions if finding.caption),
        missing_captions=[names[f.row] for f in captions if not f.caption] if captions else None,
        duplicates=[group for group in alike.values() if len(group) > 1],
        notes=notes,
    )
