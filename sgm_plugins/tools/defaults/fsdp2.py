"""The strategy `fsdp2` is known to Lightning's trainer by its name. The first version is rejected."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sgm_core.hooks.specs import hookimpl

if TYPE_CHECKING:
    from sgm_core.config.api import Config


@hookimpl
def check_config(config: Config) -> Iterator[tuple[str, str]]:
    strategy = (config.to_dict().get("trainer") or {}).get("strategy")
    if strategy in ("fsdp", "fsdp_cpu_offload"):
        reason = "is FSDP of the first version, which flattens the weights: they cannot be averaged by name; use fsdp2"
        yield "trainer.strategy", f"{strategy} {reason}"


@hookimpl
def lightning_callbacks() -> None:
    """Adds no callback: a trainer is about to be made, which looks its strategy up."""
    register_strategy()


def register_strategy() -> None:
    """Let `trainer.strategy: fsdp2` be found by every trainer that is made from now on."""
    from lightning.pytorch.strategies import StrategyRegistry

    from sgm_plugins.tools.defaults.fsdp2_strategy import NAME, FSDP2Strategy

    if NAME not in StrategyRegistry:
        StrategyRegistry.register(NAME, FSDP2Strategy, description=FSDP2Strategy.__doc__)
