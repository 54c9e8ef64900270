import pytest
import sgm_core as sgm
import torch
from sgm_core.testing import check_component

from sgm_plugins.tools.new.templates.discretizations import ExampleDiscretization


def test_a_config_finds_it_by_name() -> None:
    found = sgm.resolve("discretizations", "sgm-example:example")
    assert found is ExampleDiscretization


def test_it_keeps_the_contract_of_its_kind() -> None:
    check_component("discretizations", ExampleDiscretization)


def test_the_levels_fall_by_a_constant_factor_from_end_to_end() -> None:
    sigmas = ExampleDiscretization(sigma_min=0.1, sigma_max=10.0).sigmas(5)
    torch.testing.assert_close(sigmas[[0, -1]], torch.tensor([10.0, 0.1]))
    torch.testing.assert_close(sigmas[1:] / sigmas[:-1], torch.full((4,), 0.01**0.25))


def test_a_schedule_ends_with_zero_even_with_one_step() -> None:
    assert ExampleDiscretization()(1).tolist() == [80.0, 0.0]


def test_limits_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValueError, match="must be the lower one"):
        ExampleDiscretization(sigma_min=1.0, sigma_max=0.5)
