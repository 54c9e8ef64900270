import sgm_core as sgm
import torch
from sgm_core.testing import check_component

from sgm_plugins.tools.new.templates.discriminators import ExampleDiscriminator


def test_a_config_finds_it_by_name() -> None:
    found = sgm.resolve("discriminators", "sgm-example:example")
    assert found is ExampleDiscriminator


def test_it_keeps_the_contract_of_its_kind() -> None:
    check_component("discriminators", ExampleDiscriminator)


def test_it_learns_to_tell_black_from_white() -> None:
    torch.manual_seed(0)
    judge, images = ExampleDiscriminator(in_channels=1), torch.ones(4, 1, 8, 8)
    optimizer = torch.optim.Adam(judge.parameters(), lr=1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        (judge(-images) - judge(images)).mean().backward()
        optimizer.step()
    assert judge(images).min() > judge(-images).max()
