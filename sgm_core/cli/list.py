"""List the installed components, from metadata alone: no plugin is imported."""

from __future__ import annotations

import argparse
import sys

from sgm_core.kinds import KINDS
from sgm_core.registry import BUILTIN, check_kind, index


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", nargs="?", help=f"one of {', '.join(KINDS)}")
    parser.add_argument("--json", action="store_true", help="machine-readable")


def run(options: argparse.Namespace) -> int:
    if options.kind is not None:
        check_kind(options.kind)
    entries = [entry for entry in index.entries(options.kind) if entry.kind in KINDS]
    if options.json:
        import json

        fields = ("kind", "name", "distribution", "version", "value")
        rows = [{**{f: getattr(entry, f) for f in fields}, "qualified": entry.qualified} for entry in entries]
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
        return 0
    width = max((len(entry.name) for entry in entries), default=0)
    for kind in KINDS.values():
        found = [entry for entry in entries if entry.kind == kind.name]
        if found:
            sys.stdout.write(f"{kind.name}  ({kind.summary})\n")
        for entry in found:
            origin = "" if entry.distribution == BUILTIN else f"  {entry.provider}"
            sys.stdout.write(f"  {entry.name:{width}}{origin}".rstrip() + "\n")
    return 0
