"""Throw-away plugins with hooks."""

import warnings
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest


@pytest.fixture
def make_plugin(make_distribution) -> Callable[..., Path]:
    """`make_plugin("sgm-a", SOURCE)` installs a distribution whose plugin `main` is a module with this source."""

    def make(distribution: str, source: str, *, version: str = "1.0") -> Path:
        module = f"throwaway_{distribution.replace('-', '_')}"
        text = "from sgm_core import hookimpl\nfrom sgm_core.errors import SgmError\n\n" + dedent(source)
        return make_distribution(
            distribution, {"sgm.plugins": {"main": module}}, {f"{module}.py": text}, version=version
        )

    return make


@pytest.fixture(autouse=True)
def _as_a_user_starts(monkeypatch):
    for name in ("SGM_PLUGINS", "SGM_PLUGINS_STRICT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # the commands change it
