"""Show one component: parameters, defaults, documentation and provider."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from sgm_core.errors import SgmError
from sgm_core.registry import index


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("component", metavar="KIND/NAME", help="e.g. samplers/euler_edm")
    parser.add_argument("--json", action="store_true", help="machine-readable")


def run(options: argparse.Namespace) -> int:
    kind, separator, name = options.component.partition("/")
    if not separator:
        raise SgmError(f"'{options.component}': write KIND/NAME, e.g. samplers/euler_edm")
    shown = description(kind, name)
    if options.json:
        import json

        sys.stdout.write(json.dumps(shown, indent=1) + "\n")
        return 0
    sys.stdout.write(f"{kind}/{shown['name']}  {shown['provider']}\n{shown['source']}\n")
    if shown["problem"]:
        sys.stdout.write(f"  not told by its source: {shown['problem']}\n")
    for parameter in shown["parameters"]:
        default = "  (needed)" if parameter["needed"] else f" = {parameter['default']}"
        note = f"  ({parameter['note']})" if parameter["note"] else ""
        sys.stdout.write(f"  {parameter['name']}: {parameter['accepts']}{default}{note}\n")
    if shown["open"] and not shown["problem"]:
        sys.stdout.write("  **kwargs: anything  (which further keys it takes is not told by its signature)\n")
    if shown["doc"]:
        sys.stdout.write(f"\n{shown['doc']}\n")
    return 0


def description(kind: str, name: str) -> dict[str, Any]:
    """The facts, ready for JSON. From source: the component is not imported."""
    entry = index.find(kind, name)
    from sgm_core.config.schema import describe
    from sgm_plugins.tools.catalog.source.component import component_of

    described = component_of(entry)
    return {
        "kind": kind,
        "name": entry.name,
        "qualified": entry.qualified,
        "provider": entry.provider,
        "source": described.source,
        "doc": described.doc,
        "problem": described.problem,
        "open": described.signature.open,
        "parameters": [
            {
                "name": parameter.name,
                "accepts": describe(parameter.type),
                "needed": parameter.required,
                "default": parameter.default,
                "note": parameter.note,
            }
            for parameter in described.signature.parameters.values()
        ],
    }
