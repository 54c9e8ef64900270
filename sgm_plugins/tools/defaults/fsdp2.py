"""The strategy `fsdp2` is known to Lightning's trainer by its name."""

from __future__ import annotations

from sgm_core.hooks.specs import hookimpl


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
