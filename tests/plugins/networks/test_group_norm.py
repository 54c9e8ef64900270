import pytest
import torch

from sgm_plugins.networks.group_norm import GroupNorm


def test_each_group_of_channels_is_standardized():
    x = 3 + 2 * torch.randn(2, 64, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    groups = GroupNorm(64).double()(x).reshape(2, 32, -1)
    torch.testing.assert_close(groups.mean(-1), torch.zeros(2, 32, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(groups.std(-1, correction=0), torch.ones(2, 32, dtype=torch.float64), atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_the_float32_result_rounded_once(dtype):
    norm = GroupNorm(32)
    torch.nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(0))
    half = norm.to(dtype)
    x = (100 + torch.randn(2, 32, 8, 8, generator=torch.Generator().manual_seed(1))).to(dtype)
    exact = torch.nn.functional.group_norm(x.float(), 32, half.weight.float(), half.bias.float(), half.eps)
    assert torch.equal(half(x), exact.to(dtype))


@pytest.mark.parametrize("channels", [0, 16, 48])
def test_channels_that_make_no_32_groups_are_named(channels):
    with pytest.raises(ValueError, match=f"{channels} channels.*multiple of 32"):
        GroupNorm(channels)
