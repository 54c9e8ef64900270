import sgm_core as sgm
import torch
from sgm_core.testing import check_component

from sgm_plugins.tools.new.templates.regularizers import ExampleRegularizer


def test_a_config_finds_it_by_name() -> None:
    found = sgm.resolve("regularizers", "sgm-example:example")
    assert found is ExampleRegularizer


def test_it_keeps_the_contract_of_its_kind() -> None:
    check_component("regularizers", ExampleRegularizer)


def test_the_latents_stay_and_the_penalty_pulls_them_to_zero() -> None:
    z = torch.randn(2, 4, 3, 3, requires_grad=True)
    latents, log = ExampleRegularizer(weight=0.5)(z)
    assert torch.equal(latents, z)
    log["l2_loss"].backward()
    assert z.grad is not None
    torch.testing.assert_close(z.grad, z.detach() / z.numel())
