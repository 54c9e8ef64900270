import sgm_core as sgm
import torch
from sgm_core.testing import check_component
from torch import nn

from sgm_plugins.tools.new.templates.optimizers import ExampleOptimizer


def test_a_config_finds_it_by_name() -> None:
    found = sgm.resolve("optimizers", "sgm-example:example")
    assert found is ExampleOptimizer


def test_it_keeps_the_contract_of_its_kind() -> None:
    check_component("optimizers", ExampleOptimizer)


def test_each_step_has_the_length_of_the_learning_rate_and_leads_downhill() -> None:
    parameter = nn.Parameter(torch.tensor([1.0, -100.0]))
    optimizer = ExampleOptimizer([parameter], lr=0.25)
    parameter.square().sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    optimizer.step()
    torch.testing.assert_close(parameter.detach(), torch.tensor([0.75, -99.75]))


def test_what_has_no_gradient_stays() -> None:
    parameter = nn.Parameter(torch.ones(2))
    ExampleOptimizer([parameter]).step()
    assert torch.equal(parameter, torch.ones(2))
