"""A model that learns the mean image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import torch
from annotated_types import Gt
from sgm_core.roles import Engine
from torch import Tensor, nn


class ExampleEngine(Engine):
    """Learns the mean image of the data, the smallest model that trains.

    Args:
        shape: (c, h, w) of the images.
        lr: learning rate.
        input_key: the batch entry that holds the images, (b, c, h, w) in [-1, 1].
    """

    def __init__(self, shape: list[int], lr: Annotated[float, Gt(0)] = 0.1, input_key: str = "image") -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(shape))
        self.lr = lr
        self.input_key = input_key

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """The squared distance of the images from the mean, averaged over the batch. Logs `loss`."""
        images: Tensor = batch[self.input_key]
        loss = (images - self.mean).square().flatten(1).sum(1).mean()
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)

    def log_images(
        self, batch: Mapping[str, Any], n: int, *, sample: bool, ucg_keys: Iterable[str] | None, seed: int
    ) -> dict[str, Tensor]:
        """Pictures for the image logger, (n, c, h, w) in [-1, 1]."""
        return {"inputs": batch[self.input_key][:n], "mean": self.mean.detach()[None].clamp(-1, 1)}
