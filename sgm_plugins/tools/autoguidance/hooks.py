"""The model that guides is compared with the one that it guides, before anything is built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sgm_core.hooks.specs import hookimpl

if TYPE_CHECKING:
    from sgm_core.config.api import Config


@hookimpl
def check_config(config: Config, training: bool) -> list[tuple[str, str] | str]:
    from sgm_plugins.tools.autoguidance.fit import check_guides

    return check_guides(config) if training else []  # else it is drawn with, and the guider says itself what is missing
