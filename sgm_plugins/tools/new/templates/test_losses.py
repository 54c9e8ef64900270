import sgm_core as sgm
import torch
from sgm_core.conditioning import Conditioning
from sgm_core.testing import check_component
from torch import Tensor

from sgm_plugins.tools.new.templates.losses import ExampleLoss


def test_a_config_finds_it_by_name() -> None:
    found = sgm.resolve("losses", "sgm-example:example")
    assert found is ExampleLoss


def test_it_keeps_the_contract_of_its_kind() -> None:
    check_component("losses", ExampleLoss, sigma_sampler="edm")


def test_it_is_the_mean_absolute_error_of_the_estimate() -> None:
    image = torch.randn(3, 1, 4, 4)

    def two_too_high(x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        return image + 2

    loss = ExampleLoss(sgm.build("sigma_samplers", "edm"))
    torch.testing.assert_close(loss(two_too_high, image, Conditioning()), torch.full((3,), 2.0))


def test_equal_generators_give_equal_losses() -> None:
    def keep_noise(x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        return x

    loss = ExampleLoss(sgm.build("sigma_samplers", "edm"))
    first, second, other = (
        loss(keep_noise, torch.zeros(3, 8), Conditioning(), torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
