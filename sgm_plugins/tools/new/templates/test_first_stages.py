import pytest
import sgm_core as sgm
import torch
from sgm_core.testing import check_component

from sgm_plugins.tools.new.templates.first_stages import ExampleFirstStage


def test_a_config_finds_it_by_name() -> None:
    found = sgm.resolve("first_stages", "sgm-example:example")
    assert found is ExampleFirstStage


def test_it_keeps_the_contract_of_its_kind() -> None:
    check_component("first_stages", ExampleFirstStage)


def test_a_decoded_latent_is_encoded_to_itself() -> None:
    stage, z = ExampleFirstStage(factor=2), torch.rand(2, 3, 4, 4)
    assert stage.decode(z).shape == (2, 3, 8, 8)
    torch.testing.assert_close(stage.encode(stage.decode(z)), z)


def test_a_size_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="smaller by 3"):
        ExampleFirstStage(factor=3).encode(torch.zeros(1, 1, 8, 8))
