"""The mean of the weights over training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from sgm_core.roles import Average
from torch import Tensor, nn


class ExampleAverage(Average):
    """The plain mean of the parameters after each update: Polyak and Juditsky 1992.

    Before the first update it is the value that was tracked first. In the state dict the means are `mean_0`,
    `mean_1`, ..., in the order of the parameters and of their dtype. A state that is loaded before `track` is called
    for the first time is gone on from.
    """

    def __init__(self) -> None:
        super().__init__()
        self.num_updates = 0
        self._tracked: list[nn.Parameter] = []
        self._swapped = False

    @property
    def swapped(self) -> bool:
        return self._swapped

    def track(self, parameters: Mapping[str, nn.Parameter]) -> None:
        loaded = not self._tracked and self.num_updates > 0
        self._tracked = list(parameters.values())
        if loaded:
            return
        self.num_updates = 0
        for i, parameter in enumerate(self._tracked):
            self.register_buffer(f"mean_{i}", parameter.detach().clone())

    @torch.no_grad()
    def update(self) -> None:
        self.num_updates += 1
        for mean, parameter in self._pairs():
            mean += (parameter - mean) / self.num_updates

    @torch.no_grad()
    def reset(self) -> None:
        self.num_updates = 0
        for mean, parameter in self._pairs():
            mean.copy_(parameter)

    @torch.no_grad()
    def swap(self) -> None:
        for mean, parameter in self._pairs():
            live = parameter.clone()
            parameter.copy_(mean)
            mean.copy_(live)
        self._swapped = not self._swapped

    def get_extra_state(self) -> Tensor:
        """The number of updates, so that a resumed run goes on counting."""
        return torch.tensor(self.num_updates)

    def set_extra_state(self, state: Tensor) -> None:
        self.num_updates = int(state)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Make room for a state that is loaded before `track`."""
        for key in [] if self._tracked else list(state_dict):
            if key.startswith(f"{prefix}mean_"):
                self.register_buffer(key.removeprefix(prefix), torch.empty_like(state_dict[key]))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _pairs(self) -> list[tuple[Tensor, nn.Parameter]]:
        return [(self.get_buffer(f"mean_{i}"), parameter) for i, parameter in enumerate(self._tracked)]
