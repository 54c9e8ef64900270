"""CLIP's text tower."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sgm_plugins.openclip.size import TowerSize
from sgm_plugins.openclip.transformer import Transformer


class TextTower(nn.Module):
    """Token ids to features: Radford et al. 2021, arXiv:2103.00020. Parameters are named as in OpenCLIP."""

    def __init__(self, size: TowerSize) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(size.vocabulary, size.width)
        self.positional_embedding = nn.Parameter(torch.empty(size.context, size.width))
        self.transformer = Transformer(size.width, size.layers, size.heads, size.mlp_width, size.activation)
        self.ln_final = nn.LayerNorm(size.width)
        self.text_projection = nn.Parameter(torch.empty(size.width, size.projection))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))  # kept for checkpoints
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=size.width**-0.5)

    def penultimate(self, ids: Tensor) -> Tensor:
        """(b, tokens) -> (b, tokens, width): before the last block and the final norm."""
        x = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        y: Tensor = self.transformer(x, causal=True, skip_last=1)
        return y

    def last(self, penultimate: Tensor) -> Tensor:
        """What the last block makes of `penultimate`, before the final norm."""
        x: Tensor = self.transformer.resblocks[-1](penultimate, True)
        return x

    def pool(self, last: Tensor, ends: Tensor) -> Tensor:
        """The normalized feature at each text's end-of-text token (b,), projected: (b, projection)."""
        x: Tensor = self.ln_final(last)[torch.arange(len(last), device=last.device), ends]
        return x @ self.text_projection
