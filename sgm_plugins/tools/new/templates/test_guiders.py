import pytest
import sgm_core as sgm
import torch
from sgm_core.conditioning import Conditioning
from sgm_core.testing import check_component
from torch import Tensor

from sgm_plugins.tools.new.templates.guiders import ExampleGuider


def test_a_config_finds_it_by_name() -> None:
    found = sgm.resolve("guiders", "sgm-example:example")
    assert found is ExampleGuider


def test_it_keeps_the_contract_of_its_kind() -> None:
    check_component("guiders", ExampleGuider)


@pytest.mark.parametrize(("scale", "expected"), [(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)])
def test_it_goes_from_the_unconditional_estimate_through_the_conditional_one(scale: float, expected: float) -> None:
    def denoise(x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        assert cond.vector is not None
        return x + cond.vector

    x, cond, uncond = torch.zeros(2, 1), Conditioning(torch.full((2, 1), 3.0)), Conditioning(torch.ones(2, 1))
    guided = ExampleGuider(scale)(denoise, x, torch.ones(2), cond, uncond)
    torch.testing.assert_close(guided, torch.full((2, 1), expected))
