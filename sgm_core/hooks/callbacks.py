"""Lightning callbacks that plugins add to a run, and the one that keeps their states in its checkpoints."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from sgm_core.config.provenance import PROVENANCE_KEY, Provenance
from sgm_core.hooks.session import current
from sgm_core.hooks.specs import RunParts

COMPARTMENTS_KEY = "sgm_plugins"
"""Where a checkpoint holds them: qualified name of the plugin -> what its `checkpoint_save` gave."""

SCALARS = (bool, int, float, str, type(None))


def added_callbacks(run: RunParts) -> list[Callback]:
    """The callbacks of the running session's plugins, for a run."""
    session, arguments = current(), lambda: {"config": run.config.to_dict(), "run": run}
    answers = [] if session is None else session.call("lightning_callbacks", arguments, _callbacks)
    return [callback for _, callbacks in answers for callback in callbacks]


def _callbacks(result: Any) -> list[Callback]:
    """The callbacks of one plugin. ValueError for anything else."""
    if not isinstance(result, (list, tuple)) or not all(isinstance(callback, Callback) for callback in result):
        raise ValueError(f"give a list of Lightning callbacks, not {result!r}")
    return list(result)


class Compartments(Callback):
    """What plugins keep in checkpoints. A plugin that is absent, or was left out, keeps what it had there."""

    def __init__(self) -> None:
        self.states: dict[str, Any] = {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if (session := current()) is not None:
            arguments = {"engine": pl_module, "trainer": trainer}
            given = session.call("checkpoint_save", lambda: arguments, plain_copy)
            for plugin in session.implementing("checkpoint_save"):
                self.states.pop(plugin.entry.qualified, None)
            self.states |= {plugin.entry.qualified: state for plugin, state in given}
        if self.states:
            checkpoint[COMPARTMENTS_KEY] = dict(self.states)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.states = dict(checkpoint.get(COMPARTMENTS_KEY, {}))
        if provenance := checkpoint.get(PROVENANCE_KEY):
            for line in Provenance.from_dict(provenance).missing_plugins():
                rank_zero_warn(line)
        session = current()
        active = {} if session is None else {plugin.entry.qualified: plugin for plugin in session.active}
        for name, state in sorted(self.states.items()):
            plugin = active.get(name)
            if session is None or plugin is None:
                rank_zero_warn(f"the plugin {name} is not running; its state in the checkpoint is carried on")
            elif "checkpoint_load" in plugin.hooks:
                # a copy: the plugin may change it, and the next checkpoint still needs it
                arguments = {"engine": pl_module, "trainer": trainer, "state": plain_copy(state)}
                session.attempt(plugin, "checkpoint_load", arguments)


def plain_copy(value: Any, place: str = "it") -> Any:
    """The same dicts, lists, tuples, scalars and tensors anew; the tensors share their memory. ValueError for anything
    else, which `torch.load(weights_only=True)` would not read; bytes too, since torch cannot read empty ones again."""
    if type(value) in SCALARS:
        return value
    if type(value) in (Tensor, nn.Parameter):
        return value.detach()  # without the attributes that Python code may have given it
    if type(value) is dict and all(type(key) in SCALARS for key in value):
        return {key: plain_copy(child, f"{place}[{key!r}]") for key, child in value.items()}
    if type(value) in (list, tuple):
        return type(value)(plain_copy(child, f"{place}[{position}]") for position, child in enumerate(value))
    raise ValueError(f"{place} is of the type {type(value).__name__}: a checkpoint holds plain data and tensors")
