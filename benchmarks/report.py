"""What a report costs: of a long run, first and next writes and the size of the page; and in training, its share.

python benchmarks/report.py
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from sgm_plugins.tools.report.page import Report
from sgm_plugins.tools.report.record import Record


def make_run(folder: Path, lines: int, metrics: int, grids: int, side: int) -> None:
    """A folder as a run leaves it."""
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    for step in range(grids):
        small = Image.fromarray(rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8))
        small.resize((side, side), Image.Resampling.BICUBIC).save(
            folder / "images" / f"samples-step-{step * 1000:08d}.png"
        )
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(0, lines * 10, 10):
            row = {f"loss/sigma_{i}": math.exp(-step / (1e5 * (i + 1))) for i in range(metrics)}
            file.write(json.dumps({"step": step, "epoch": 0, **row}) + "\n")


def timed(report: Report, record: Record, seconds: float | None) -> tuple[float, int]:
    """Milliseconds of a write, and the bytes of the page."""
    started = time.perf_counter()
    size = report.write(record, picture_seconds=seconds).stat().st_size
    return 1000 * (time.perf_counter() - started), size


def main() -> None:
    print(f"{'lines':>8} {'metrics':>8} {'grids':>6} {'side':>5}   {'first':>9} {'next':>9} {'page':>9}")
    for lines, metrics, grids, side in ((100, 3, 8, 64), (10_000, 12, 60, 512), (100_000, 20, 200, 1024)):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make_run(folder, lines, metrics, grids, side)
            report, record = Report(folder), Record(state="running", config=[["x: 1", "a.yaml:1:1"]] * 200)
            first, _ = timed(report, record, None)
            again, size = min(timed(report, record, None) for _ in range(5))
            cost = f"{first:6.0f} ms {again:6.1f} ms {size / 1e6:6.2f} MB"
            print(f"{lines:8} {metrics:8} {grids:6} {side:5}   {cost}")


if __name__ == "__main__":
    main()
