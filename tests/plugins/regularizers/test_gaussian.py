import pytest
import torch
from torch.distributions import Normal, kl_divergence

from sgm_core.testing import check_component
from sgm_plugins.regularizers.gaussian import GaussianRegularizer


def moments(mean, log_variance):
    return torch.cat([mean, log_variance], dim=1)


@pytest.mark.parametrize("sample", [True, False])
def test_the_contract(sample):
    check_component("regularizers", GaussianRegularizer, sample=sample)


def test_the_mode_is_the_mean():
    mean = torch.randn(2, 3, 4, 4)
    assert torch.equal(GaussianRegularizer(sample=False)(moments(mean, mean))[0], mean)


def test_samples_have_the_mean_and_the_variance_that_were_given():
    mean, log_variance = torch.full((1, 1, 400, 400), 3.0), torch.full((1, 1, 400, 400), 0.5).log()
    z, _ = GaussianRegularizer()(moments(mean, log_variance), generator=torch.Generator().manual_seed(0))
    assert abs(z.mean() - 3) < 0.01
    assert abs(z.var() - 0.5) < 0.01


def test_the_loss_is_the_divergence_from_the_standard_normal_distribution():
    mean, log_variance = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    _, log = GaussianRegularizer()(moments(mean, log_variance))
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum() / 2
    torch.testing.assert_close(log["kl_loss"], expected)


@pytest.mark.parametrize("extreme", [-1e4, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_extreme_variances_stay_finite(extreme, dtype):
    z, log = GaussianRegularizer()(torch.full((2, 4, 3, 3), extreme, dtype=dtype))
    assert z.isfinite().all()
    assert log["kl_loss"].isfinite()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_sample_has_the_dtype_of_its_moments(dtype):
    """B36: the reference gave float32 for float16."""
    z, _ = GaussianRegularizer()(torch.randn(2, 4, 3, 3).to(dtype))
    assert z.dtype == dtype


def test_a_sample_is_drawn_where_its_moments_are():
    """B36: the reference drew on the CPU. The meta device stands for any other: noise of the CPU would not fit it."""
    z, _ = GaussianRegularizer()(torch.empty(2, 4, 3, 3, device="meta"))
    assert z.device.type == "meta"


def test_the_generator_alone_decides_what_is_drawn():
    regularizer, z = GaussianRegularizer(), torch.randn(2, 4, 3, 3)

    def draw(seed, global_seed):
        torch.manual_seed(global_seed)
        return regularizer(z, generator=torch.Generator().manual_seed(seed))[0]

    assert torch.equal(draw(0, 0), draw(0, 1))
    assert not torch.equal(draw(0, 0), draw(1, 0))
    torch.manual_seed(5)
    drawn = regularizer(z)[0]
    torch.manual_seed(5)
    assert torch.equal(regularizer(z)[0], drawn)


def test_an_odd_number_of_channels_is_refused():
    with pytest.raises(ValueError, match=r"3 channels.*double_z"):
        GaussianRegularizer()(torch.zeros(1, 3, 2, 2))
