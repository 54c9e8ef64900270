import pytest
import torch

from sgm_plugins.networks.attention import Attention


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


@pytest.mark.parametrize("context", [None, draw(2, 5, 6)])
def test_is_the_softmax_of_scaled_products_head_by_head(context):
    attention = Attention(8, 2, context_dim=None if context is None else 6).double()
    x = draw(2, 3, 8)
    source = x if context is None else context
    q, k, v = attention.to_q(x), attention.to_k(source), attention.to_v(source)
    heads = [
        torch.softmax(q[..., h] @ k[..., h].transpose(1, 2) / 4**0.5, dim=-1) @ v[..., h]
        for h in (slice(0, 4), slice(4, 8))
    ]
    torch.testing.assert_close(attention(x, context), attention.to_out(torch.cat(heads, dim=-1)))


def test_the_order_of_the_context_does_not_matter():
    attention, x, context = Attention(8, 2, context_dim=6).double(), draw(2, 3, 8), draw(2, 5, 6)
    torch.testing.assert_close(attention(x, context), attention(x, context.flip(1)))


def test_a_context_of_fewer_rows_serves_consecutive_rows():
    """B32: six sequences and three contexts: each context is for two of them, the neighbours."""
    attention, x, context = Attention(8, 2, context_dim=6).double(), draw(6, 4, 8), draw(3, 5, 6)
    expected = torch.cat([attention(x[i : i + 1], context[i // 2][None]) for i in range(6)])
    torch.testing.assert_close(attention(x, context), expected)


@pytest.mark.parametrize("heads", [0, 3, 16])
def test_heads_that_do_not_divide_the_width_are_named(heads):
    with pytest.raises(ValueError, match=f"{heads} heads do not divide 8 channels"):
        Attention(8, heads)
