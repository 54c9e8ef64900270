"""The widths that meet in a model are compared before it is built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sgm_core.hooks.specs import hookimpl

if TYPE_CHECKING:
    from sgm_core.config.api import Config
    from sgm_core.config.tree import Problem


@hookimpl
def check_config(config: Config, training: bool) -> list[Problem] | list[str]:
    from sgm_core.config.tree import ConfigError
    from sgm_plugins.tools.widths.widths import check_shapes

    try:
        return check_shapes(config, training=training)
    except ConfigError as error:
        return error.problems
