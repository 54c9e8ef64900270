"""The classes of generative-models (commit 0ad7de9), by class name, and what each is here."""

from __future__ import annotations

from collections.abc import Iterable

from sgm_plugins.tools.convert.rewriter import Rule
from sgm_plugins.tools.convert.tables import (
    adversaries,
    autoencoders,
    callbacks,
    diffusion,
    embedders,
    engines,
    networks,
    optimization,
)


def all_rules() -> dict[str, tuple[Rule, ...]]:
    """Class name -> the rules for it, one per kind that it can be."""
    found: dict[str, tuple[Rule, ...]] = {}
    tables: Iterable[dict[str, tuple[Rule, ...]]] = (
        module.RULES
        for module in (adversaries, autoencoders, callbacks, diffusion, embedders, engines, networks, optimization)
    )
    for table in tables:
        for name, rules in table.items():
            found[name] = (*found.get(name, ()), *rules)
    return found
