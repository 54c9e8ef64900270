import pytest
import torch
from support.networks import draw

from sgm_core.slots import EmbedderSlot
from sgm_core.testing import check_component
from sgm_plugins.conditioners.general import GeneralConditioner
from sgm_plugins.embedders.reference import ReferenceEmbedder


def test_it_keeps_the_contract_of_embedders():
    check_component("embedders", "reference", inputs={"reference": draw(2, 3, 4, 6)})


def test_latents_come_out_as_they_are_and_several_images_are_side_by_side():
    one, several = draw(2, 3, 4, 6), draw(2, 5, 3, 4, 6)
    embedder = ReferenceEmbedder()
    assert embedder(one) is one
    assert torch.equal(embedder(several)[:, 3:6], several[:, 1])
    assert embedder(torch.zeros(2, 0)).shape == (2, 0, 1, 1)
    with pytest.raises(ValueError, match=r"reference is \(2, 3\)"):
        embedder(draw(2, 3))


def test_a_conditioner_hands_them_to_the_network():
    conditioner = GeneralConditioner([EmbedderSlot(ReferenceEmbedder(), "reference", output="reference")])
    grids = [draw(2, 3, 4, 6), draw(2, 3, 4, 6, seed=1)]
    for entry, expected in ((grids[0], grids[0]), (grids, torch.cat(grids, dim=1)), (torch.zeros(2, 0), None)):
        found = conditioner({"reference": entry}).extras["reference"]
        assert found.shape[1] == 0 if expected is None else torch.equal(found, expected)
