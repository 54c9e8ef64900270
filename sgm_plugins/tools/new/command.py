"""Write a plugin package with one component.

It has an entry point, a minimal working component, its test and a README; it installs, and its test passes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sgm_core.kinds import KINDS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", metavar="KIND", help=f"one of {', '.join(KINDS)}")
    parser.add_argument("name", metavar="NAME", help="the component's name in configs, snake_case")
    parser.add_argument("--package", metavar="DIST", help="the distribution and its folder (default: sgm-NAME)")
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="where the folder goes (default: here)")


def run(options: argparse.Namespace) -> int:
    from sgm_plugins.tools.new.package import plan, write

    package = plan(options.kind, options.name, options.package)
    folder = write(package, options.out)
    sys.stdout.write(
        f"{folder}: {package.attribute} in {package.module}/{package.name}.py is {package.kind}/{package.name}\n"
        f'Next: cd {folder} && pip install -e ".[test]" && pytest\n'
    )
    return 0
