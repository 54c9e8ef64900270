"""What we cost beside our peers and beside the machine's limits: a table of ratios.

    python benchmarks/speed.py                             everything, about a quarter of an hour on two idle cores
    python benchmarks/speed.py --only training             a part of it
    python benchmarks/speed.py --out runs/speed            writes speed.json and speed.png there
    python benchmarks/speed.py --from runs/speed/speed.json --docs docs
                                                           puts that table into docs/speed.md, JSON and plot beside it

Both sides of a row do the same work on the same weights and inputs, their results are compared, and they take turns in
this process. A ratio is the median over the rounds, between the quartiles: how many times as fast, or as small, we are;
where the hold is "at most" (beside a limit, say), how many times as long we take.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rows import HEAD, WIDTHS, Row, head, line, load, machine
from speed_page import plot, told, write
from threads import THREADS
from toy import TINY, TOY

SIZED = ("training", "averaging", "overhead", "guided")
"""Each has `rows(rounds, size)`: the rows of one part, as they are measured."""
OTHERS = ("sampling", "memory")
"""Each has `rows(rounds)`: of one size, so they are left out where all is tiny."""
PARTS = (*SIZED, *OTHERS)
PAGE, TABLE, PLOT = "speed.md", "speed.json", "speed.png"


def measured(parts: Sequence[str], rounds: int, tiny: bool) -> Iterator[Row]:
    for name in parts:
        rows = importlib.import_module(name).rows
        yield from rows(rounds, TINY if tiny else TOY) if name in SIZED else rows(rounds)


def measure(parts: Sequence[str], rounds: int, tiny: bool) -> dict[str, Any]:
    """Print the table row by row; gives all that is known of it, as JSON."""
    print(f"{machine()}\n\n{head(HEAD, WIDTHS)}", flush=True)
    rows = []
    for row in measured(parts, rounds, tiny):
        print(line(row.cells(), WIDTHS), flush=True)
        rows.append(asdict(row))
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "versions": {name: version(name) for name in ("torch", "lightning", "diffusers")},
        "threads": THREADS,
        "load": load(),
        "tiny": tiny,
        "rounds": rounds,
        "rows": rows,
    }


def save(result: Mapping[str, Any], folder: Path) -> None:
    """JSON and plot."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TABLE).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    plot([Row(**row) for row in result["rows"]]).save(folder / PLOT, optimize=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--tiny", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--from", dest="given", type=Path, metavar="FILE", help="this table; measure nothing")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=f"write {TABLE} and {PLOT} there")
    parser.add_argument("--docs", type=Path, metavar="FOLDER", help=f"the same, and the table into its {PAGE}")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: at least 1")
    if options.given:
        result = json.loads(options.given.read_text(encoding="utf-8"))
    else:
        parts = options.only or (SIZED if options.tiny else PARTS)
        result = measure(parts, options.rounds, options.tiny)
        print(f"\n{told(result)}")
    if options.out:
        save(result, options.out)
    if options.docs:
        save(result, options.docs)
        write(result, options.docs / PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
