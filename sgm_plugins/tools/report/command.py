"""Write the report page of a run again, from its folder.

It reads metrics.jsonl, images/, config.yaml, lock.json and run.json, and works for running, finished, killed and old
runs. metrics.csv is written too, unless the run is still training or --out is given. Nothing else is changed.
Folders, command lines and the host are left out, so that the page can be shared, unless --with-paths is given.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

from sgm_core.errors import SgmError
from sgm_core.files import inside, read_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the page goes (default: RUN/report.html)")
    parser.add_argument("--with-paths", action="store_true", help="show folders, command lines and the host")


def run(options: argparse.Namespace) -> int:
    folder = options.run
    if not any((folder / name).is_file() for name in ("run.json", "config.yaml", "metrics.jsonl")):
        raise SgmError(f"{folder}: not a run folder (it has no run.json, config.yaml or metrics.jsonl)")
    from sgm_core.runs.lines import write_table
    from sgm_plugins.tools.report.page import Report
    from sgm_plugins.tools.report.record import read_record, shared

    record = read_record(folder)
    if not record.config:
        record.config = saved_lines(folder)
    if not options.with_paths:
        record = shared(record)
    if options.out is None and record.state != "running":  # a run that is killed leaves no table, or an old one
        try:
            inside(folder, "metrics.jsonl")
            write_table(folder)
        except (OSError, ValueError) as error:
            warnings.warn(f"metrics.csv was not written: {error}", stacklevel=2)
    written = Report(folder).write(record, to=options.out)
    sys.stdout.write(f"{written}\n")
    return 0


def saved_lines(folder: Path) -> list[list[str]]:
    """The lines of the saved config of a run that has no record, each with its place in the file; as they are, so
    that no component has to be installed here."""
    file = folder / "config.yaml"
    try:
        lines = read_text(inside(folder, file.name)).removesuffix("\n").split("\n")
    except (OSError, ValueError):
        return []
    return [[line, f"{file}:{number}"] for number, line in enumerate(lines, start=1)]
