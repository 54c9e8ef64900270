import sgm_core as sgm
import torch
from sgm_core.testing import check_component
from torch import nn

from sgm_plugins.tools.new.templates.averages import ExampleAverage


def test_a_config_finds_it_by_name() -> None:
    found = sgm.resolve("averages", "sgm-example:example")
    assert found is ExampleAverage


def test_it_keeps_the_contract_of_its_kind() -> None:
    check_component("averages", ExampleAverage)


def averaged(*values: float) -> tuple[ExampleAverage, nn.Parameter]:
    """An average that has seen these values, and its parameter."""
    parameter, average = nn.Parameter(torch.tensor([9.0])), ExampleAverage()
    average.track({"weight": parameter})
    for value in values:
        parameter.data.fill_(value)
        average.update()
    return average, parameter


def test_it_is_the_mean_of_what_it_has_seen() -> None:
    average, parameter = averaged(1.0, 2.0, 6.0)
    average.swap()
    assert (parameter.item(), average.swapped, average.num_updates) == (3.0, True, 3)
    average.swap()
    assert (parameter.item(), average.swapped) == (6.0, False)


def test_it_goes_on_from_a_saved_state() -> None:
    average, _ = averaged(1.0, 2.0)
    resumed, parameter = averaged()
    resumed.load_state_dict(average.state_dict())
    parameter.data.fill_(6.0)
    resumed.update()
    resumed.swap()
    assert parameter.item() == 3.0


def test_a_state_that_is_loaded_first_is_gone_on_from() -> None:
    average, _ = averaged(1.0, 2.0)
    resumed, parameter = ExampleAverage(), nn.Parameter(torch.tensor([6.0]))
    resumed.load_state_dict(average.state_dict())
    resumed.track({"weight": parameter})
    resumed.update()
    resumed.swap()
    assert parameter.item() == 3.0


def test_reset_forgets_the_past() -> None:
    average, parameter = averaged(1.0, 2.0)
    average.reset()
    average.swap()
    assert (parameter.item(), average.num_updates) == (2.0, 0)
