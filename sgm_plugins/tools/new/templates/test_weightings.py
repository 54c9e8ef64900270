import sgm_core as sgm
import torch
from sgm_core.testing import check_component

from sgm_plugins.tools.new.templates.weightings import ExampleWeighting


def test_a_config_finds_it_by_name() -> None:
    found = sgm.resolve("weightings", "sgm-example:example")
    assert found is ExampleWeighting


def test_it_keeps_the_contract_of_its_kind() -> None:
    check_component("weightings", ExampleWeighting)


def test_it_is_the_signal_to_noise_ratio_up_to_gamma() -> None:
    weights = ExampleWeighting(gamma=4.0)(torch.tensor([0.01, 0.5, 1.0, 10.0]))
    torch.testing.assert_close(weights, torch.tensor([4.0, 4.0, 1.0, 0.01]))
