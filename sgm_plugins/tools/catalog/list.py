"""List the installed components.

Those that cannot be used are listed with the reason. Everything is read from metadata and source; no plugin is
imported.
"""

from __future__ import annotations

import argparse
import sys

from sgm_core.kinds import KINDS
from sgm_core.registry import BUILTIN, Entry, check_kind, index


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", nargs="?", help=f"one of {', '.join(KINDS)}")
    parser.add_argument(
        "--long", action="store_true", help="with the first line of documentation, parameters and place"
    )
    parser.add_argument("--json", action="store_true", help="machine-readable")


def run(options: argparse.Namespace) -> int:
    if options.kind is not None:
        check_kind(options.kind)
    entries = [entry for entry in index.entries(options.kind) if entry.kind in KINDS]
    unavailable = [found for found in index.unavailable(options.kind) if found[0].kind in KINDS]
    if options.json:
        import json

        fields = ("kind", "name", "distribution", "version", "value", "qualified")
        rows = [{f: getattr(entry, f) for f in fields} for entry in entries]
        if options.long:
            from sgm_plugins.tools.catalog.show import description

            rows = [description(entry.kind, entry.qualified) | row for entry, row in zip(entries, rows, strict=True)]
        rows += [{**{f: getattr(entry, f) for f in fields}, "unavailable": why} for entry, why in unavailable]
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
        return 0
    spelled = {entry: spelling(entry) for entry in entries}
    width = max(map(len, spelled.values()), default=0)
    for kind in KINDS.values():
        found = [entry for entry in entries if entry.kind == kind.name]
        if found:
            sys.stdout.write(f"{kind.name}  ({kind.summary})\n")
        for entry in found:
            origin = "" if entry.distribution == BUILTIN else f"  {entry.provider}"
            sys.stdout.write(f"  {spelled[entry]:{width}}{origin}".rstrip() + "\n")
            if options.long:
                sys.stdout.writelines(f"      {line}\n" for line in details(entry))
    if unavailable:
        sys.stdout.write("cannot be used\n")
    for entry, why in unavailable:
        sys.stdout.write(f"  {entry.kind}/{entry.name}  {entry.provider}: {why}\n")
    return 0


def spelling(entry: Entry) -> str:
    """How a config names it: the bare name, or `distribution:name` where that is a built-in's or another's too."""
    return entry.name if entry.name in index.names(entry.kind) and not _taken(entry) else entry.qualified


def _taken(entry: Entry) -> bool:
    """Whether the bare name means another component."""
    return index.find(entry.kind, entry.name) != entry


def details(entry: Entry) -> list[str]:
    """What its source says, in short: the documentation's first paragraph, `key` or `key=default`, `file:line`."""
    from sgm_plugins.tools.catalog.source.component import component_of
    from sgm_plugins.tools.catalog.source.documentation import summary

    found = component_of(entry)
    keys = [f"{p.name}={p.default}" if p.default else p.name for p in found.signature.parameters.values()]
    problem = f"not told by its source: {found.problem}" if found.problem else ""
    return [line for line in (summary(found.doc), ", ".join(keys), problem, found.source) if line]
