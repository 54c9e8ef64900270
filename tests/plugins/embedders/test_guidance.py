import pytest
import torch

from sgm_core.testing import check_component
from sgm_plugins.embedders.guidance import GuidanceEmbedder


def test_it_keeps_the_contract_of_embedders():
    check_component("embedders", "guidance", inputs={"guidance": torch.tensor([3.5, 1.0])})


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_numbers_come_out_as_they_are(shape):
    found = GuidanceEmbedder()(torch.tensor([3, 1]).reshape(shape))
    assert torch.equal(found, torch.tensor([[3.0], [1.0]]))


def test_several_numbers_of_a_sample_are_refused():
    with pytest.raises(ValueError, match=r"guidance is \(2, 3\); one number per sample"):
        GuidanceEmbedder()(torch.ones(2, 3))
