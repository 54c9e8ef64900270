"""What we cost beside our peers and beside the machine's limits: a table of ratios.

    python benchmarks/speed.py                       everything, about a quarter of an hour on two cores
    python benchmarks/speed.py --only training       some of it
    python benchmarks/speed.py --json speed.json

Both sides of a row do the same work on the same weights and inputs, their results are compared, and they take turns in
this process. A ratio is the median over the rounds, between the quartiles.
"""

from __future__ import annotations

import argparse
import importlib
import json
from dataclasses import asdict
from pathlib import Path

import torch
from rows import HEAD, WIDTHS, Row, head, line, load, machine
from toy import TINY, TOY

MODULES = ("training", "averaging", "overhead", "guided")
"""Each has `rows(rounds, size)`: the rows of one part, as they are measured."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=MODULES, default=MODULES, help="these parts")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--tiny", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there, too")
    options = parser.parse_args()
    print(f"{machine()}, torch {torch.__version__}")
    print(head(HEAD, WIDTHS))
    rows: list[Row] = []
    for name in options.only:
        for row in importlib.import_module(name).rows(options.rounds, TINY if options.tiny else TOY):
            rows.append(row)
            print(line(row.cells(), WIDTHS), flush=True)
    if options.json:
        result = {"machine": machine(), "load": load(), "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
