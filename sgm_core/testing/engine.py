"""What an engine promises."""

from __future__ import annotations

import warnings
from typing import Any, cast

import lightning.pytorch as lightning
import torch
from torch.utils.data import DataLoader, Dataset

from sgm_core.testing import trees
from sgm_core.testing.contract import BatchContract
from sgm_core.testing.promises import finite


class EngineContract(BatchContract):
    """A LightningModule that a plain Trainer can fit."""

    def call(self, component: Any, inputs: Any) -> Any:
        return {}  # its training step needs a trainer

    def check(self) -> None:
        engine, batch = self.subject.build(), self.inputs()
        before = {name: parameter.detach().clone() for name, parameter in engine.named_parameters()}
        trainer = lightning.Trainer(
            max_steps=2,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        with warnings.catch_warnings(), self.subject.trying("a Trainer can fit it", "give a batch as `inputs`"):
            warnings.simplefilter("ignore")  # about the number of workers and the like
            trainer.fit(engine, DataLoader(cast(Dataset[Any], [batch, batch]), batch_size=None))
        changed = trees.difference(batch, self.given)
        self.subject.expect(not changed, "it leaves the batch as it was", changed, "work on a copy")
        after = dict(engine.named_parameters())
        self.subject.expect(
            any(not torch.equal(after[name], value) for name, value in before.items()),
            "it learns: two steps change its parameters",
            "none changed",
            "give them to the optimizer, and a loss that depends on them",
        )
        finite(self.subject, "its parameters stay finite", after, "look at the learning rate")
