"""A sampler or a loss that begins with sigma = inf needs a denoiser that has a limit there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sgm_core.hooks.specs import hookimpl

if TYPE_CHECKING:
    from sgm_core.config.api import Config
    from sgm_core.config.tree import Problem


@hookimpl
def check_config(config: Config) -> list[Problem]:
    from sgm_plugins.tools.limits.limits import check_limits

    return check_limits(config.checked[0])
