import sgm_core as sgm
import torch
from sgm_core.testing import check_component

from sgm_plugins.tools.new.templates.feature_networks import ExampleFeatureNetwork


def test_a_config_finds_it_by_name() -> None:
    found = sgm.resolve("feature_networks", "sgm-example:example")
    assert found is ExampleFeatureNetwork


def test_it_keeps_the_contract_of_its_kind() -> None:
    check_component("feature_networks", ExampleFeatureNetwork)


def test_brightness_is_not_seen() -> None:
    network, x = ExampleFeatureNetwork(scales=2), torch.rand(1, 3, 16, 16)
    assert [tuple(f.shape) for f in network(x)] == [(1, 6, 15, 15), (1, 6, 7, 7)]
    for one, other in zip(network(x), network(x + 0.1), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
