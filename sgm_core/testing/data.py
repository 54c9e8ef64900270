"""What a datamodule promises."""

from __future__ import annotations

import random
from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sgm_core.slots import describe
from sgm_core.testing import trees
from sgm_core.testing.contract import Contract
from sgm_core.testing.promises import finite
from sgm_core.testing.shapes import check_entries

BATCHES = 8
"""As many of an epoch as are looked at."""


class DataModuleContract(Contract):
    """Batches by name, epoch after epoch, the same again from the same seeds."""

    def call(self, component: Any, inputs: Any) -> Any:
        return self._epochs(component)

    @staticmethod
    def _epochs(data: Any) -> list[list[Any]]:
        """The first batches of two epochs."""
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        data.prepare_data()
        data.setup("fit")
        loader = data.train_dataloader()
        return [list(islice(iter(loader), BATCHES)) for _ in range(2)]

    def check(self) -> None:
        expect, data = self.subject.expect, self.subject.build()
        with self.subject.trying("it gives batches without a trainer", "use `self.trainer` only where there is one"):
            epochs = self._epochs(data)
        for i, batches in enumerate(epochs):
            expect(len(batches) > 0, "each epoch has batches", f"none in epoch {i}", "give a loader, not an iterator")
            for batch in batches:
                expect(
                    isinstance(batch, Mapping) and all(isinstance(key, str) for key in batch),
                    "a batch is a mapping, so that conditioners find entries by name",
                    describe(batch),
                    'give {"image": ..., "cls": ...}',
                )
                check_entries(self.subject, data, batch)
                of_samples = ((key, value) for key, value in batch.items() if isinstance(value, (Tensor, list)))
                rows = {key: len(value) for key, value in of_samples if isinstance(value, list) or value.ndim}
                expect(
                    len(set(rows.values())) == 1,
                    "the entries of a batch have one row per sample",
                    str(rows),
                    "collate all of them over the same samples",
                )
                finite(self.subject, "a batch is finite", batch, "clean the data when it is loaded")
        again = trees.difference(self._epochs(self.subject.build()), epochs)
        expect(
            not again,
            "under the same seeds another one built alike gives the same batches",
            again,
            "draw from a seed of its own, or from the global random states",
        )
