import sgm_core as sgm
import torch
from sgm_core.testing import check_component

from sgm_plugins.tools.new.templates.encoders import ExampleEncoder


def test_a_config_finds_it_by_name() -> None:
    found = sgm.resolve("encoders", "sgm-example:example")
    assert found is ExampleEncoder


def test_it_keeps_the_contract_of_its_kind() -> None:
    check_component("encoders", ExampleEncoder)


def test_a_patch_is_seen_by_its_own_cell_alone() -> None:
    encoder, x = ExampleEncoder(factor=2), torch.randn(1, 3, 4, 4)
    changed = x.clone()
    changed[..., :2, :2] += 1
    difference = (encoder(changed) - encoder(x)).abs().sum(1)[0]
    assert (difference > 0).tolist() == [[True, False], [False, False]]
