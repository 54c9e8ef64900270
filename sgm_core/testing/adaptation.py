"""What adapters promise."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from sgm_core.testing import trees
from sgm_core.testing.contract import Contract
from sgm_core.testing.stand_ins import noise

CHANNELS = 8


def _part() -> nn.Module:
    """A network with layers of several kinds, under the name that engines give it."""
    torch.manual_seed(7)
    network = nn.Sequential(
        nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
        nn.SiLU(),
        nn.Flatten(2),
        nn.Linear(16, 16),
        nn.LayerNorm(16),
    )
    return nn.Sequential(OrderedDict(diffusion_model=network))


class AdapterContract(Contract):
    """It changes nothing at first, and then all that it changes is in its own weights."""

    def inputs(self) -> Any:
        return {"x": noise(2, CHANNELS, 4, 4, dtype=torch.float32)}

    def call(self, component: Any, inputs: Any) -> Any:
        part = _part()
        component.adapt({"model": part})
        return {"y": part(inputs["x"]), "keys": sorted(part.state_dict())}

    def check(self) -> None:
        adapter, part, expect = self.subject.build(), _part(), self.subject.expect
        x = self.inputs()["x"]
        before, weights = part(x).detach(), trees.clone(part.state_dict())
        adapter.adapt({"model": part})
        expect(
            not trees.difference(part(x).detach(), before, tolerance=1e-6),
            "a part gives what it gave, until the new weights are trained",
            "something else",
            "begin with an update that is zero",
        )
        own = _shared(part, weights)
        expect(
            not trees.difference(own, weights),
            "the state dict of a part has the keys and values that it had",
            f"other {sorted(weights.keys() - own.keys()) or 'values'}",
            "name what is wrapped as it was (torch: register_state_dict_post_hook, register_load_state_dict_pre_hook)",
        )
        with self.subject.trying("a part loads the weights that it had", "name them in load_state_dict as before, too"):
            found = part.load_state_dict(weights, strict=False)
            expect(not found.unexpected_keys, "a part loads the weights that it had", f"{found}", "rename them back")
        self._check_training(part, x, weights)
        self._check_export(adapter)

    def _check_training(self, part: nn.Module, x: Tensor, weights: dict[str, Tensor]) -> None:
        expect = self.subject.expect
        trained = {name: p for name, p in part.named_parameters() if p.requires_grad}
        expect(bool(trained), "there are new weights that require a gradient", "none", "add parameters to the part")
        optimizer = torch.optim.SGD(list(trained.values()), lr=0.1)
        y = part(x).detach()
        for _ in range(2):  # a factor that is zero lets no gradient through to the other one
            optimizer.zero_grad()
            part(x).square().mean().backward()
            optimizer.step()
        expect(
            bool(trees.difference(part(x).detach(), y)),
            "the new weights change what a part gives, once they are trained",
            "the same",
            "let gradients through to them",
        )
        expect(
            not trees.difference(_shared(part, weights), weights),
            "training leaves the weights that were there as they are",
            "others",
            "freeze all of them: requires_grad_(False)",
        )

    def _check_export(self, adapter: Any) -> None:
        with TemporaryDirectory() as folder:
            adapter.export(Path(folder))
            written = any(Path(folder).iterdir())
        self.subject.expect(written, "export writes the new weights", "no file", "write them into the folder")


def _shared(part: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the part saves now under the keys that it had."""
    return {key: value for key, value in part.state_dict().items() if key in weights}
