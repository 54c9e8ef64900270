"""The transformer of CLIP's two towers, with the parameter names of OpenCLIP's checkpoints."""

from __future__ import annotations

from collections import OrderedDict

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x): what OpenAI's own CLIP was trained with, https://github.com/openai/CLIP."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "quick_gelu": QuickGELU}
"""By the names that configurations give them."""


class Attention(nn.Module):
    """Multi-head self-attention, queries, keys and values from one projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        """(b, tokens, width) -> the same; `causal`: a token sees those before it and itself."""
        qkv = linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = rearrange(qkv, "b n (three h d) -> three b h n d", three=3, h=self.heads)  # (b, heads, tokens, d)
        attended = scaled_dot_product_attention(q, k, v, is_causal=causal)
        y: Tensor = self.out_proj(rearrange(attended, "b h n d -> b n (h d)"))
        return y


class ResidualBlock(nn.Module):
    """Attention and a perceptron, each on the normalized input and added to it."""

    def __init__(self, width: int, heads: int, mlp_width: int, activation: str) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(width, mlp_width),
                gelu=ACTIVATIONS[activation](),
                c_proj=nn.Linear(mlp_width, width),
            )
        )

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        """(b, tokens, width) -> the same."""
        x = x + self.attn(self.ln_1(x), causal)
        y: Tensor = x + self.mlp(self.ln_2(x))
        return y


class Transformer(nn.Module):
    """Residual blocks in a row: Radford et al. 2021, arXiv:2103.00020, section 2.4."""

    def __init__(self, width: int, layers: int, heads: int, mlp_width: int, activation: str) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(ResidualBlock(width, heads, mlp_width, activation) for _ in range(layers))

    def forward(self, x: Tensor, causal: bool = False, skip_last: int = 0) -> Tensor:
        """(b, tokens, width) -> the same, after all blocks but the last `skip_last`."""
        for block in self.resblocks[: len(self.resblocks) - skip_last]:
            x = block(x, causal)
        return x
