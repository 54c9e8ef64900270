from pathlib import Path

import pytest
import sgm_core as sgm
import torch
from safetensors.torch import load_file
from sgm_core.testing import check_component
from torch import nn

from sgm_plugins.tools.new.templates.adapters import ExampleAdapter


def test_a_config_finds_it_by_name() -> None:
    found = sgm.resolve("adapters", "sgm-example:example")
    assert found is ExampleAdapter


def test_it_keeps_the_contract_of_its_kind() -> None:
    check_component("adapters", ExampleAdapter)


def test_a_factor_of_one_half_more_makes_the_output_so_much_larger() -> None:
    layer, x = nn.Linear(3, 2), torch.ones(1, 3)
    before = layer(x)
    adapter = ExampleAdapter()
    adapter.adapt({"model": nn.Sequential(layer)})
    with torch.no_grad():
        adapter.factors["model.0.factor"].fill_(0.5)
    torch.testing.assert_close(layer(x), 1.5 * before)


def test_the_factors_are_written_alone(tmp_path: Path) -> None:
    adapter = ExampleAdapter()
    adapter.adapt({"model": nn.Sequential(nn.Linear(3, 2))})
    adapter.export(tmp_path)
    assert {key: tuple(value.shape) for key, value in load_file(tmp_path / "factors.safetensors").items()} == {
        "model.0.factor": (2,)
    }


def test_a_model_without_linear_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="no linear layer"):
        ExampleAdapter().adapt({"model": nn.Sequential(nn.SiLU())})
