"""Vector quantization with a codebook learned by gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor, nn

from sgm_core.shapes import Shape
from sgm_plugins.regularizers.quantizer import (
    Count,
    Quantizer,
    UnknownIndex,
    channels_first,
    channels_last,
    nearest,
    usage,
)


class Codebook(nn.Module):
    """n vectors, (n, dim); with `weight_norm` as lengths times directions (of a column), which are learned apart.

    Salimans & Kingma 2016, arXiv:1602.07868.
    """

    def __init__(self, n: int, dim: int, weight_norm: bool) -> None:
        super().__init__()
        if weight_norm:
            self.weight_v = nn.Parameter(torch.randn(n, dim))
            self.weight_g = nn.Parameter(self.weight_v.detach().norm(dim=0, keepdim=True))
        else:
            self.weight = nn.Parameter(torch.empty(n, dim).uniform_(-1 / n, 1 / n))
        self.weight_norm = weight_norm

    def forward(self) -> Tensor:
        """All vectors, (n, dim)."""
        if not self.weight_norm:
            return self.weight
        directions: Tensor = self.weight_v / self.weight_v.norm(dim=0, keepdim=True)
        return self.weight_g * directions


class VectorQuantizer(Quantizer):
    """Each cell becomes the nearest vector of a codebook; the gradient of the result passes straight through.

    Van den Oord et al. 2017, arXiv:1711.00937, with the means |z_q - sg(z)|^2 + beta * |sg(z_q) - z|^2 as loss.

    Args:
        n_embed: size of the codebook.
        embed_dim: channels of its vectors, and of the latents without the two below.
        beta: weight of the loss that keeps the encoder near the codebook.
        input_dim: channels given, if they are projected to those of the codebook (Yu et al. 2022, arXiv:2110.04627).
        output_dim: channels of the latents, if they are projected from those of the codebook.
        embedding_weight_norm: learn the lengths and directions of the codebook's columns apart.
        remap: a `.npy` file with the codes in use, (k,) integers; codes are then positions in it.
        unknown_index: what stands for other codes: "random", "extra" (one more) or one of them.

    Raises:
        ValueError: see `remap`.
    """

    def __init__(
        self,
        n_embed: Count,
        embed_dim: Count,
        beta: Annotated[float, Ge(0)] = 0.25,
        input_dim: Count | None = None,
        output_dim: Count | None = None,
        embedding_weight_norm: bool = False,
        remap: Path | None = None,
        unknown_index: UnknownIndex = "random",
    ) -> None:
        super().__init__(n_embed, remap, unknown_index)
        self.beta = beta
        self.embedding = Codebook(n_embed, embed_dim, embedding_weight_norm)
        self.proj_in = nn.Identity() if input_dim is None else nn.Linear(input_dim, embed_dim)
        self.proj_out = nn.Identity() if output_dim is None else nn.Linear(embed_dim, output_dim)

    @staticmethod
    def shapes(z: Shape | None, *, embed_dim: int, output_dim: int | None) -> Shape | None:
        return None if z is None else (output_dim or embed_dim, *z[1:])

    def forward(self, z: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """Raw latents -> quantized ones. For shapes and the log see `Quantizer`."""
        vectors = self.proj_in(channels_last(z))
        codebook = self.embedding()
        codes = nearest(vectors, codebook)
        quantized = codebook[codes]
        loss = (quantized - vectors.detach()).square().mean()
        loss = loss + self.beta * (quantized.detach() - vectors).square().mean()
        straight = vectors + (quantized - vectors).detach()
        log = {"vq_loss": loss, "indices": self.to_subset(codes), **usage(codes, self.n_embed)}
        return channels_first(self.proj_out(straight)), log

    def lookup(self, codes: Tensor) -> Tensor:
        latents: Tensor = self.proj_out(self.embedding()[codes])
        return latents
