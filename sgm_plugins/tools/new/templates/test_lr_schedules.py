import pytest
import sgm_core as sgm
import torch
from sgm_core.testing import check_component

from sgm_plugins.tools.new.templates.lr_schedules import example


def test_a_config_finds_it_by_name() -> None:
    found = sgm.resolve("lr_schedules", "sgm-example:example")
    assert found is example


def test_it_keeps_the_contract_of_its_kind() -> None:
    check_component("lr_schedules", example)


def test_the_rate_is_halved_after_three_decay_times() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    schedule = example(optimizer, decay_steps=2)
    assert schedule.get_last_lr() == [0.1]
    for _ in range(6):
        optimizer.step()
        schedule.step()
    assert schedule.get_last_lr() == [pytest.approx(0.05)]
