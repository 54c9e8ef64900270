"""Describe a checkpoint from its keys.

Prints which public model it is, its parts and their precision, its config and step. Of a .safetensors file only the
header is read.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sgm_core.errors import printable
from sgm_plugins.datamodules.report import data_lines

if TYPE_CHECKING:
    from sgm_plugins.tools.inspect.inspection import Inspection


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="a .safetensors or .ckpt file, a run, a folder of diffusers"
    )
    parser.add_argument("--keys", action="store_true", help="each key with its shape and dtype, too")
    parser.add_argument("--json", action="store_true", help="machine-readable, with the keys")


def run(options: argparse.Namespace) -> int:
    from sgm_plugins.tools.inspect.inspection import inspect

    found = inspect(options.checkpoint)
    if options.json:
        sys.stdout.write(json.dumps(found.to_dict(), indent=1) + "\n")
        return int(found.unknown)
    sys.stdout.writelines(f"{printable(line)}\n" for line in described(found))
    if options.keys:
        for contents in found.contents:
            sys.stdout.write(f"\n{printable(contents.path)}\n")
            for key, stored in contents.tensors.items():
                sys.stdout.write(f"  {printable(key)}  {stored.dtype} {list(stored.shape)}\n")
    return int(found.unknown)


def described(found: Inspection) -> list[str]:
    """The facts, a line each."""
    parts = found.parts.values()
    total = f"{sum(part.tensors for part in parts)} tensors, {spell(sum(part.bytes for part in parts))}B"
    lines = [f"{found.path}  {total}", f"  layout      {found.layout.title}"]
    if found.fault:
        lines.append(f"              cannot be used: {found.fault}")
    elif found.layout.remedy:
        lines.append(f"              {found.layout.remedy}")
    configs = [model.config for model in found.known if model.config]
    titles = " or ".join(model.title for model in found.known)
    if titles:
        reasons = [model.reason for model in found.known if model.reason]
        none = f", of which no config is shipped{f': {reasons[0]}' if reasons else ''}"
        told = f", config {' or '.join(configs)}" if configs else none
        lines.append(f"  model       {titles}{told}{': its keys cannot tell' if len(found.known) > 1 else ''}")
    else:
        lines.append("  model       not a public model that is known here")
    if found.families:
        lines.append(f"  family      {' or '.join(found.families)}")
    for name, part in found.parts.items():
        dtypes = ", ".join(part.dtypes)
        numbers = f"{part.tensors:5} tensors  {spell(part.parameters):>6} parameters  {spell(part.bytes):>6}B"
        lines.append(f"  {name:11} {numbers}  {dtypes}")
    lines.append(f"  average     {'averaged weights (EMA)' if found.average else 'none (no EMA)'}")
    if found.step is not None:
        lines.append(f"  step        {found.step}")
    lines.append(f"  config      {'in the file' if found.config else 'not in the file'}")
    lines += [f"  data        {line}" for line in data_lines(found.data)]
    versions = dict.fromkeys(f"{c['distribution']} {c['version']}" for c in found.components)
    if versions:
        lines.append(f"  written by  {', '.join(versions)}")
    for contents in found.contents:
        for key, text in contents.metadata.items():
            if key not in ("sgm", "format"):
                first = text.splitlines()[0] if text else ""
                lines.append(f"  metadata    {key}: {first[:80]}{'...' if len(text) > len(first[:80]) else ''}")
    return lines


def spell(number: float) -> str:
    """2567463684 -> "2.57 G"."""
    for unit in ("", "k", "M", "G"):
        if number < 1000:
            return f"{number:.3g} {unit}" if unit else f"{number:.0f} "
        number /= 1000
    return f"{number:.3g} T"
