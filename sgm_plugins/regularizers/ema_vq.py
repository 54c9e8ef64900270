"""Vector quantization with a codebook of running averages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, distributed, nn

from sgm_core.shapes import Shape
from sgm_plugins.regularizers.quantizer import (
    Count,
    Quantizer,
    UnknownIndex,
    channels_first,
    channels_last,
    count,
    nearest,
    usage,
)


class AveragedCodebook(nn.Module):
    """n vectors, (n, dim): each the running average of what it was nearest to. Buffers, for no gradient moves them."""

    weight: Tensor
    cluster_size: Tensor
    embed_avg: Tensor

    def __init__(self, n: int, dim: int) -> None:
        super().__init__()
        weight = torch.randn(n, dim)
        self.register_buffer("weight", weight)
        self.register_buffer("cluster_size", torch.zeros(n))
        self.register_buffer("embed_avg", weight.clone())

    @torch.no_grad()
    def update(self, vectors: Tensor, codes: Tensor, decay: float, eps: float) -> None:
        """Take in vectors (m, dim) and their codes (m,), from all processes: each keeps the same codebook."""
        n = len(self.weight)
        counts = count(codes, n).to(self.cluster_size.dtype)
        sums = torch.zeros_like(self.embed_avg).index_add_(0, codes, vectors.to(self.embed_avg.dtype))
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(counts)
            distributed.all_reduce(sums)
        self.cluster_size.lerp_(counts, 1 - decay)
        self.embed_avg.lerp_(sums, 1 - decay)
        total = self.cluster_size.sum()
        smoothed = (self.cluster_size + eps) / (total + n * eps) * total
        self.weight.copy_(self.embed_avg / smoothed[:, None])


class EMAVectorQuantizer(Quantizer):
    """Each cell becomes the nearest vector of a codebook; in training, the codebook follows what is near.

    Van den Oord et al. 2017, arXiv:1711.00937, appendix A.1; the loss is beta * |sg(z_q) - z|^2, a mean.

    Args:
        n_embed: size of the codebook.
        embed_dim: channels of its vectors and of the latents.
        beta: weight of the loss, which keeps the encoder near the codebook.
        decay: how much of the average stays in a step.
        eps: added to the count of each vector, so that one that nothing was near to stays finite.
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
        decay: Annotated[float, Ge(0), Le(1)] = 0.99,
        eps: Annotated[float, Gt(0)] = 1e-5,
        remap: Path | None = None,
        unknown_index: UnknownIndex = "random",
    ) -> None:
        super().__init__(n_embed, remap, unknown_index)
        self.beta = beta
        self.decay = decay
        self.eps = eps
        self.embedding = AveragedCodebook(n_embed, embed_dim)

    @staticmethod
    def shapes(z: Shape | None) -> Shape | None:
        return z

    def forward(self, z: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """Raw latents -> quantized ones, with the codebook as it was before. For shapes and the log see `Quantizer`."""
        vectors = channels_last(z)
        codes = nearest(vectors, self.embedding.weight)
        quantized = self.embedding.weight[codes]
        if self.training:
            self.embedding.update(vectors.detach().flatten(0, -2), codes.flatten(), self.decay, self.eps)
        loss = self.beta * (quantized - vectors).square().mean()
        straight = vectors + (quantized - vectors).detach()
        log = {"vq_loss": loss, "indices": self.to_subset(codes), **usage(codes, self.n_embed)}
        return channels_first(straight), log

    def lookup(self, codes: Tensor) -> Tensor:
        return self.embedding.weight[codes]
