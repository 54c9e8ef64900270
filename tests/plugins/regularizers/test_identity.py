import torch

from sgm_core.testing import check_component
from sgm_plugins.regularizers.identity import IdentityRegularizer


def test_nothing_happens():
    z = torch.randn(2, 4, 3, 3)
    latents, log = IdentityRegularizer()(z)
    assert latents is z
    assert log == {}


def test_the_contract():
    check_component("regularizers", IdentityRegularizer)
