from __future__ import annotations

import pytest
import torch

from sgm_core.roles import Scaling, Weighting
from sgm_plugins.scalings import EDMScaling, EpsScaling, VScaling
from sgm_plugins.weightings import EDMWeighting, EpsWeighting, UnitWeighting, VWeighting

SIGMA = torch.logspace(-3, 2, 30, dtype=torch.float64)


@pytest.mark.parametrize(
    ("weighting", "scaling"),
    [
        (EDMWeighting(), EDMScaling()),
        (EDMWeighting(sigma_data=1.3), EDMScaling(sigma_data=1.3)),
        (VWeighting(), VScaling()),
        (EpsWeighting(), EpsScaling()),
    ],
)
def test_the_weight_makes_a_plain_loss_on_the_networks_output(weighting: Weighting, scaling: Scaling) -> None:
    torch.testing.assert_close(weighting(SIGMA) * scaling(SIGMA).c_out ** 2, torch.ones_like(SIGMA))


def test_unit_weights_are_one_in_the_dtype_of_sigma() -> None:
    assert torch.equal(UnitWeighting()(SIGMA), torch.ones(30, dtype=torch.float64))
