import math

import torch

from sgm_plugins.networks.feed_forward import GEGLU, FeedForward


def test_geglu_gates_the_first_half_by_the_exact_gelu_of_the_second():
    layer = GEGLU(3, 5).double()
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    value, gate = layer.proj(x)[:, :5], layer.proj(x)[:, 5:]
    torch.testing.assert_close(layer(x), value * gate * (1 + torch.erf(gate / math.sqrt(2))) / 2)


def test_the_feed_forward_layer_works_token_by_token():
    layer = FeedForward(4)
    x = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(x)[1, 3], layer(x[1, 3]))
