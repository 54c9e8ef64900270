import sgm_core as sgm
import torch
from sgm_core.testing import check_component

from sgm_plugins.tools.new.templates.networks import ExampleNetwork


def test_a_config_finds_it_by_name() -> None:
    found = sgm.resolve("networks", "sgm-example:example")
    assert found is ExampleNetwork


def test_it_keeps_the_contract_of_its_kind() -> None:
    check_component(
        "networks", ExampleNetwork, inputs={"x": torch.randn(2, 3, 8, 8), "timesteps": torch.ones(2)}, channels=3
    )


def test_the_output_is_like_the_input_and_depends_on_the_noise_level() -> None:
    network = ExampleNetwork(channels=3, width=8)
    x = torch.randn(2, 3, 8, 8)
    low, high = network(x, torch.zeros(2)), network(x, torch.ones(2))
    assert low.shape == x.shape
    assert not torch.equal(low, high)


def test_every_parameter_gets_a_gradient() -> None:
    network = ExampleNetwork(channels=1, width=4)
    network(torch.randn(2, 1, 4, 4), torch.ones(2)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
