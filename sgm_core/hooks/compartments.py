"""What plugins keep in a run's checkpoints, each in a compartment of its own."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from sgm_core.checkpoints.provenance import PROVENANCE_KEY, Provenance
from sgm_core.hooks.session import Session

COMPARTMENTS_KEY = "sgm_plugins"
"""Where a checkpoint holds them: qualified name of the plugin -> what its `checkpoint_save` gave."""


class Compartments(Callback):
    """Fills and reads the compartments.

    Only its plugin changes a compartment: that of one which is absent, or was left out, is carried on as it was.

    Args:
        session: whose plugins are asked; None where no session runs.
    """

    def __init__(self, session: Session | None) -> None:
        self.session = session
        self.states: dict[str, Any] = {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self.session is not None:
            arguments = {"engine": pl_module, "trainer": trainer}
            given = self.session.call("checkpoint_save", lambda: arguments, plain_copy)
            for plugin in self.session.implementing("checkpoint_save"):
                self.states.pop(plugin.entry.qualified, None)
            self.states |= {plugin.entry.qualified: state for plugin, state in given}
        if self.states:
            checkpoint[COMPARTMENTS_KEY] = dict(self.states)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.states = dict(checkpoint.get(COMPARTMENTS_KEY, {}))
        provenance = checkpoint.get(PROVENANCE_KEY)
        if provenance:
            for line in Provenance.from_dict(provenance).missing_plugins():
                rank_zero_warn(line)
        active = {} if self.session is None else {p.entry.qualified: p for p in self.session.active}
        for name, state in sorted(self.states.items()):
            plugin = active.get(name)
            if plugin is None:
                rank_zero_warn(f"the plugin {name} is not running; its state in the checkpoint is carried on")
            elif self.session is not None and "checkpoint_load" in plugin.hooks:
                # a copy, for it may change it, and the next checkpoint have it yet
                arguments = {"engine": pl_module, "trainer": trainer, "state": plain_copy(state)}
                self.session.attempt(plugin, "checkpoint_load", arguments, lambda _: None)


def plain_copy(value: Any, place: str = "it") -> Any:
    """The same dicts, lists, tuples, scalars and tensors anew; the tensors share their memory.

    No bytes: torch cannot read empty ones again.

    Raises:
        ValueError: there is something else in it, which `torch.load(weights_only=True)` would not read.
    """
    if type(value) in (Tensor, nn.Parameter):
        return value.detach()  # without the attributes that Python code may have given it
    if type(value) is dict and all(_is_scalar(key) for key in value):
        return {key: plain_copy(child, f"{place}[{key!r}]") for key, child in value.items()}
    if type(value) in (list, tuple):
        return type(value)(plain_copy(child, f"{place}[{position}]") for position, child in enumerate(value))
    if _is_scalar(value):
        return value
    raise ValueError(f"{place} is of the type {type(value).__name__}: a checkpoint holds plain data and tensors")


def _is_scalar(value: Any) -> bool:
    return type(value) in (bool, int, float, str, type(None))
