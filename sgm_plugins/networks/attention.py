"""Multi-head attention over tokens."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from sgm_plugins.networks.named_blocks import Mode


class Attention(nn.Module):
    """Multi-head attention, Vaswani et al. 2017, arXiv:1706.03762; to itself, or to a context.

    Args:
        dim: width of the tokens.
        num_heads: must divide `dim`.
        context_dim: width of the context's tokens; as `dim` unless given.
        dropout: after the output projection.

    Raises:
        ValueError: `num_heads` does not divide `dim`.
    """

    def __init__(self, dim: int, num_heads: int, context_dim: int | None = None, dropout: float = 0.0) -> None:
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"{num_heads} heads do not divide {dim} channels")
        super().__init__()
        context_dim = dim if context_dim is None else context_dim
        self.num_heads = num_heads
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(context_dim, dim, bias=False)
        self.to_v = nn.Linear(context_dim, dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(dropout))

    def forward(self, x: Tensor, context: Tensor | None = None, perturb: Mode | None = None) -> Tensor:
        """x (b, n, dim), context (b, m, context_dim) -> (b, n, dim). Attends to x without a context.

        A context of fewer rows, b / k of them, serves k consecutive rows of x each. Without a context, `perturb`
        replaces the map of attention: by the identity for "pag" (Ahn et al. 2024, arXiv:2403.17377), by that of blurred
        queries for "seg" (Hong 2024, arXiv:2408.00760): of their mean, the limit of a wide Gaussian.
        """
        if perturb is not None and context is None:
            if perturb == "pag":
                alone: Tensor = self.to_out(self.to_v(x))
                return alone
            x, context = x.mean(dim=1, keepdim=True).expand_as(x), x
        context = x if context is None else context
        q, k, v = self.to_q(x), self._split(self.to_k(context)), self._split(self.to_v(context))
        q = self._split(q.reshape(len(context), -1, q.shape[-1]))  # rows that share a context are so many more queries
        heads = scaled_dot_product_attention(q, k, v)  # (b, heads, n, head_dim)
        y: Tensor = self.to_out(heads.transpose(1, 2).reshape(x.shape))
        return y

    def _split(self, tokens: Tensor) -> Tensor:
        b, n, dim = tokens.shape
        return tokens.view(b, n, self.num_heads, dim // self.num_heads).transpose(1, 2)  # (b, heads, n, head_dim)
