"""An engine from a config, with fresh weights."""

from __future__ import annotations

from typing import Any

from sgm_core.config.api import Config, config_from
from sgm_core.config.provenance import Provenance
from sgm_core.hooks.checks import check_with_plugins
from sgm_core.hooks.session import hook_entries
from sgm_core.roles import Engine


def build_engine(config: Config | dict[str, Any]) -> Engine:
    """The model of a config, on the CPU with fresh weights drawn from torch's random state.

    It knows the config, for its checkpoints, unless that holds objects that Python code put there.

    Raises:
        ConfigError, BuildError.
    """
    config = config_from(config)
    check_with_plugins(config, training=False)  # before any weight is allocated
    engine: Engine = config.build("model")
    if config.is_plain:
        entries = [*config.checked[1], *hook_entries()]
        engine.provenance = Provenance.of(config.to_dict(), entries)  # type: ignore[assignment]
    return engine
