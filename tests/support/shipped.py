"""The configs that are shipped, each with a mark where it can not be used here."""

import pytest

from sgm_core.config.compose import shipped_configs
from sgm_core.registry import index

NEEDS = {"digits_text": "sgm-minilm"}
"""The plugin that a config uses. `tests/e2e` installs it, and runs the config with it."""


def usable_configs() -> list:
    """Parameters of a test: the names; those whose plugin is not installed here are skipped, with the reason."""
    here = {entry.distribution for entry in index.entries()}
    return [pytest.param(name, marks=_marks(name, here)) for name in sorted(shipped_configs())]


def _marks(name: str, here: set[str]) -> list:
    plugin = NEEDS.get(name)
    if plugin is None or plugin in here:
        return []
    return [pytest.mark.skip(reason=f"the plugin {plugin} is not installed here; tests/e2e/test_minilm.py installs it")]
