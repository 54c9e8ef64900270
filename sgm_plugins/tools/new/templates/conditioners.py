"""A conditioner for one number per sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, cast

import torch
from annotated_types import Ge, Le
from sgm_core.conditioning import Conditioning
from sgm_core.roles import Conditioner
from torch import Tensor, nn


class ExampleConditioner(Conditioner):
    """One number of the batch, through a learned linear map to `vector`, (b, dim). Zeros are the unconditional state.

    Args:
        key: the batch entry, (b,).
        dim: length of the vector.
        drop_rate: the probability that a sample loses its condition in training.
    """

    def __init__(self, key: str, dim: Annotated[int, Ge(1)], drop_rate: Annotated[float, Ge(0), Le(1)] = 0.1) -> None:
        super().__init__()
        self.key = key
        self.drop_rate = drop_rate
        self.embedders = nn.ModuleList([nn.Linear(1, dim)])

    @property
    def _linear(self) -> nn.Linear:
        return cast(nn.Linear, self.embedders[0])

    @property
    def input_keys(self) -> tuple[str, ...]:
        return (self.key,)

    def forward(
        self,
        batch: Mapping[str, Any],
        *,
        force_zero: Iterable[str] = (),
        drop: bool = True,
        generator: torch.Generator | None = None,
    ) -> Conditioning:
        if self.key in set(force_zero):
            return self.unconditional(batch)
        vector: Tensor = self._linear(batch[self.key][:, None].type_as(self._linear.weight))
        if drop and self.drop_rate > 0:
            at = vector.device if generator is None else generator.device
            dropped = torch.rand(len(vector), generator=generator, device=at).to(vector.device) < self.drop_rate
            vector = vector.masked_fill(dropped[:, None], 0)
        return Conditioning(vector=vector)

    def unconditional(self, batch: Mapping[str, Any]) -> Conditioning:
        zeros = self._linear.weight.new_zeros(len(batch[self.key]), self._linear.out_features)
        return Conditioning(vector=zeros)

    def check(self, batch: Mapping[str, Any]) -> None:
        value = batch.get(self.key)
        if not isinstance(value, Tensor) or value.ndim != 1:
            raise ValueError(f"the batch entry '{self.key}' is {value!r:.60}; a tensor (b,) of numbers is needed")
