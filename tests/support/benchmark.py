"""A benchmark as a module, for the tests that share its measurements."""

import importlib
import sys
from types import ModuleType

from support.places import ROOT


def benchmark(name: str) -> ModuleType:
    """The module `benchmarks/NAME.py`, which imports its neighbours as when it is run."""
    folder = str(ROOT / "benchmarks")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(folder)
