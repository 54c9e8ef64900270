"""CLIP's image tower."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sgm_plugins.openclip.size import TowerSize
from sgm_plugins.openclip.transformer import Transformer


class ImageTower(nn.Module):
    """A vision transformer: Dosovitskiy et al. 2021, arXiv:2010.11929, in CLIP's form, arXiv:2103.00020.

    Parameters are named as in OpenCLIP.
    """

    def __init__(self, size: TowerSize) -> None:
        super().__init__()
        tokens = (size.image // size.patch) ** 2 + 1
        self.conv1 = nn.Conv2d(3, size.width, size.patch, stride=size.patch, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(size.width))
        self.positional_embedding = nn.Parameter(torch.empty(tokens, size.width))
        self.ln_pre = nn.LayerNorm(size.width)
        self.transformer = Transformer(size.width, size.layers, size.heads, size.mlp_width, size.activation)
        self.ln_post = nn.LayerNorm(size.width)
        self.proj = nn.Parameter(torch.empty(size.width, size.projection))
        for parameter in (self.class_embedding, self.positional_embedding, self.proj):
            nn.init.normal_(parameter, std=size.width**-0.5)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalized images (b, 3, side, side) -> the pooled feature (b, projection), and the normalized features of
        the patches (b, patches, width)."""
        patches = self.conv1(images).flatten(2).transpose(1, 2)  # (b, patches, width)
        first = self.class_embedding.expand(len(images), 1, -1)
        x = torch.cat([first, patches], dim=1) + self.positional_embedding
        x = self.ln_post(self.transformer(self.ln_pre(x)))
        return x[:, 0] @ self.proj, x[:, 1:]
