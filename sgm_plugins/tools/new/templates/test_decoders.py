import sgm_core as sgm
import torch
from sgm_core.testing import check_component

from sgm_plugins.tools.new.templates.decoders import ExampleDecoder


def test_a_config_finds_it_by_name() -> None:
    found = sgm.resolve("decoders", "sgm-example:example")
    assert found is ExampleDecoder


def test_it_keeps_the_contract_of_its_kind() -> None:
    check_component("decoders", ExampleDecoder)


def test_equal_cells_become_equal_patches() -> None:
    image = ExampleDecoder(factor=2)(torch.ones(1, 4, 2, 2))
    assert image.shape == (1, 3, 4, 4)
    assert torch.allclose(image[..., :2, :2], image[..., 2:, 2:])
