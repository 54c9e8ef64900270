import sgm_core as sgm
import torch
from sgm_core.testing import check_component

from sgm_plugins.tools.new.templates.scalings import ExampleScaling


def test_a_config_finds_it_by_name() -> None:
    found = sgm.resolve("scalings", "sgm-example:example")
    assert found is ExampleScaling


def test_it_keeps_the_contract_of_its_kind() -> None:
    check_component("scalings", ExampleScaling)


def test_the_input_of_the_network_has_unit_variance_and_its_output_is_the_estimate_in_units_of_the_data() -> None:
    sigma = torch.tensor([0.002, 1.0, 80.0])
    c = ExampleScaling(sigma_data=0.5)(sigma)
    torch.testing.assert_close(c.c_in**2 * (sigma**2 + 0.25), torch.ones(3))
    assert (c.c_skip == 0).all()
    assert (c.c_out == 0.5).all()
