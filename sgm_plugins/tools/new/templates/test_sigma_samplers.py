import pytest
import sgm_core as sgm
import torch
from sgm_core.testing import check_component

from sgm_plugins.tools.new.templates.sigma_samplers import ExampleSigmaSampler


def test_a_config_finds_it_by_name() -> None:
    found = sgm.resolve("sigma_samplers", "sgm-example:example")
    assert found is ExampleSigmaSampler


def test_it_keeps_the_contract_of_its_kind() -> None:
    check_component("sigma_samplers", ExampleSigmaSampler)


def test_it_is_uniform_in_the_logarithm_between_the_limits() -> None:
    sampler = ExampleSigmaSampler(sigma_min=0.01, sigma_max=100.0)
    torch.testing.assert_close(sampler(3, rand=torch.tensor([0.0, 0.5, 1.0])), torch.tensor([0.01, 1.0, 100.0]))


def test_equal_generators_give_equal_levels() -> None:
    first, second, other = (
        ExampleSigmaSampler()(16, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_limits_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValueError, match="must be the lower one"):
        ExampleSigmaSampler(sigma_min=1.0, sigma_max=0.5)
