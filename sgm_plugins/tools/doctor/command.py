"""Examine the installed plugins.

For each component: does it load, how long does that take, and does it keep the contract of its kind? Every
distribution is loaded in a process of its own. Exit code 0, or 1 if a component is broken. One whose
extra is not installed is not broken.
"""

from __future__ import annotations

import argparse
import sys

from sgm_core.errors import SgmError, tell
from sgm_core.registry import index, outside_window
from sgm_plugins.tools.doctor.examine import Finding, choose, examine
from sgm_plugins.tools.doctor.metadata import broken_metadata, differences


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("distribution", nargs="*", metavar="DISTRIBUTION", help="default: all but the built-ins")
    parser.add_argument("--all", action="store_true", help="the built-in components too")
    parser.add_argument(
        "--timeout",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="for each component, without torch and Lightning (default: 30)",
    )
    parser.add_argument("--json", action="store_true", help="machine-readable")


def run(options: argparse.Namespace) -> int:
    if not 0 < options.timeout < float("inf"):
        raise SgmError(f"--timeout {options.timeout:g}: a number of seconds above 0 is needed")
    outside = [entry for entry, reason in index.unavailable() if reason == outside_window(entry)]
    chosen = choose([*index.entries(), *outside], options.distribution, builtins=options.all)
    found, unreadable = examine(chosen, options.timeout), broken_metadata()
    if options.json:
        import json

        rows = [
            {
                "distribution": name,
                "version": findings[0].entry.version,
                "components": [finding.to_dict() for finding in findings],
            }
            for name, findings in found.items()
        ]
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
    else:
        sys.stdout.write(table(found))
    for line in unreadable:
        tell(f"BROKEN  {line}")
    for line in differences():
        tell(f"NOTE    {line}")
    broken = any(finding.state == "broken" for findings in found.values() for finding in findings)
    return 1 if broken or unreadable else 0


STATES = {"fine": "fine  ", "extra": "extra ", "unknown": "?     ", "broken": "BROKEN"}


def table(found: dict[str, list[Finding]]) -> str:
    """The report, as a text."""
    if not found:
        return "No plugins are installed. (`sgm doctor --all` examines the built-in components.)\n"
    findings = [finding for each in found.values() for finding in each]
    width = max(len(f"{finding.entry.kind}/{finding.entry.name}") for finding in findings)
    lines = []
    for each in found.values():
        entry, broken = each[0].entry, any(finding.state == "broken" for finding in each)
        way_out = f"  (to do without it: --plugins -{entry.distribution})" if broken and not entry.builtin else ""
        lines.append(f"{entry.provider}{way_out}")
        for finding in each:
            name = f"{finding.entry.kind}/{finding.entry.name}"
            said = f"{finding.milliseconds:.0f} ms" if finding.loads else finding.reason
            lines.append(f"  {STATES[finding.state]}  {name:{width}}  {said}")
            lines += [f"          - {problem}" for problem in finding.problems]
            if finding.output:
                first, *others = finding.output.splitlines()
                more = f" (and {counted(len(others), 'more line')})" if others else ""
                lines.append(f"          - it wrote at import: {first}{more}")
    states = [finding.state for finding in findings]
    extras = f", {states.count('extra')} for which an extra is missing" if "extra" in states else ""
    unknown = f", {states.count('unknown')} not examined" if "unknown" in states else ""
    problems = sum(bool(finding.problems) for finding in findings)
    lines.append(
        f"{counted(len(found), 'distribution')}, {counted(len(findings), 'component')}: "
        f"{states.count('fine')} can be used ({problems} of them with remarks){extras}{unknown}, "
        f"{states.count('broken')} broken"
    )
    return "\n".join(lines) + "\n"


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
