import pytest
import sgm_core as sgm
import torch
from sgm_core.testing import check_component

from sgm_plugins.tools.new.templates.conditioners import ExampleConditioner

BATCH = {"cls": torch.tensor([1, 2, 3])}


def test_a_config_finds_it_by_name() -> None:
    found = sgm.resolve("conditioners", "sgm-example:example")
    assert found is ExampleConditioner


def test_it_keeps_the_contract_of_its_kind() -> None:
    check_component("conditioners", ExampleConditioner, inputs=BATCH, key="cls", dim=4)


def test_the_vector_is_linear_in_the_number() -> None:
    conditioner = ExampleConditioner("cls", dim=4)
    vector = conditioner(BATCH, drop=False).vector
    assert vector.shape == (3, 4)
    torch.testing.assert_close(vector[1] - vector[0], vector[2] - vector[1])


def test_the_unconditional_state_is_where_drops_and_forced_zeros_lead() -> None:
    conditioner = ExampleConditioner("cls", dim=4, drop_rate=1.0)
    zeros = conditioner.unconditional(BATCH).vector
    assert zeros is not None
    assert not zeros.any()
    assert torch.equal(conditioner(BATCH).vector, zeros)
    assert torch.equal(conditioner(BATCH, force_zero=["cls"], drop=False).vector, zeros)


def test_a_batch_that_it_can_not_embed_is_refused() -> None:
    with pytest.raises(ValueError, match="cls"):
        ExampleConditioner("cls", dim=4).check({"cls": ["one", "two"]})
