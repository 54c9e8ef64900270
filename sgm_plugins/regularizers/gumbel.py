"""Quantization by a choice that has a gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from sgm_core.randomness import exponential_like
from sgm_core.shapes import Shape
from sgm_plugins.regularizers.quantizer import (
    Count,
    Quantizer,
    channels_first,
    channels_last,
    usage,
)


class GumbelQuantizer(Quantizer):
    """Each cell draws a vector of a codebook; the gradient is that of a softmax with Gumbel noise.

    Jang et al. 2017, arXiv:1611.01144; as a codebook Ramesh et al. 2021, arXiv:2102.12092. The loss is the divergence
    of the choice from a uniform one. Random in evaluation too, where every choice is a single vector.

    Args:
        num_hiddens: channels given.
        embed_dim: channels of the codebook's vectors and of the latents.
        n_embed: size of the codebook.
        straight_through: in training, choose single vectors going forward, and mixtures in the gradient only.
        kl_weight: of the loss.
        temperature: of the softmax; low is close to a single vector. An attribute too, for whoever anneals it.
        remap: a `.npy` file with the codes that may be chosen, (k,) integers; codes are then positions in it.

    Raises:
        ValueError: see `remap`.
    """

    def __init__(
        self,
        num_hiddens: Count,
        embed_dim: Count,
        n_embed: Count,
        straight_through: bool = True,
        kl_weight: Annotated[float, Ge(0)] = 5e-4,
        temperature: Annotated[float, Gt(0)] = 1.0,
        remap: Path | None = None,
    ) -> None:
        super().__init__(n_embed, remap, "extra")  # which never comes up: codes outside of it are not chosen
        self.straight_through = straight_through
        self.kl_weight = kl_weight
        self.temperature = temperature
        self.proj = nn.Conv2d(num_hiddens, n_embed, 1)
        self.embed = nn.Embedding(n_embed, embed_dim)

    @staticmethod
    def shapes(z: Shape | None, *, embed_dim: int) -> Shape | None:
        return None if z is None else (embed_dim, *z[1:])

    def forward(self, z: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """(b, num_hiddens, h, w) -> (b, embed_dim, h, w). For the log see `Quantizer`."""
        logits = self.proj(z)  # (b, n_embed, h, w)
        if self.used is not None:
            allowed = torch.zeros(self.n_embed, dtype=torch.bool, device=z.device).index_fill_(0, self.used, True)
            logits = logits.masked_fill(~allowed[:, None, None], float("-inf"))
        choice = gumbel_softmax(logits, self.temperature, hard=self.straight_through or not self.training)
        latents = channels_first(channels_last(choice) @ self.embed.weight)
        q = logits.softmax(1)
        loss = self.kl_weight * (q * (q * self.n_embed + 1e-10).log()).sum(1).mean()
        codes = choice.argmax(1)
        return latents, {"vq_loss": loss, "indices": self.to_subset(codes), **usage(codes, self.n_embed)}

    def lookup(self, codes: Tensor) -> Tensor:
        latents: Tensor = self.embed(codes)
        return latents


def gumbel_softmax(logits: Tensor, tau: float, hard: bool) -> Tensor:
    """(b, n, *grid) -> a choice among n for each cell, as torch's function of this name; each sample's own in training.

    Args:
        hard: one vector of the n, with the gradient of the mixture.
    """
    gumbels = -exponential_like(logits).log().to(logits.dtype)
    soft = ((logits + gumbels) / tau).softmax(1)
    if not hard:
        return soft
    chosen = torch.zeros_like(soft).scatter_(1, soft.argmax(1, keepdim=True), 1.0)
    return chosen - soft.detach() + soft
