"""Write a JSON Schema of configs, for editors.

It describes every installed component. No plugin is imported.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, metavar="FILE", help="write to this file (default: to the terminal)")


def run(options: argparse.Namespace) -> int:
    import json

    from sgm_plugins.tools.catalog.source.json_schema import config_schema

    text = json.dumps(config_schema(), indent=1) + "\n"
    if options.out is None:
        sys.stdout.write(text)
        return 0
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text, encoding="utf-8")
    sys.stdout.write(f"{options.out}\n")
    return 0
