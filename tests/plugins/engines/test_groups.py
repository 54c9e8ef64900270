import pytest
import torch
from torch import nn

from sgm_plugins.engines.groups import ParameterGroup, assign, grouped_optimizer

PARAMETERS = dict(nn.ModuleDict({"encoder": nn.Linear(2, 2), "decoder": nn.Linear(2, 2)}).named_parameters())


def optimizer(*groups, make=lambda params: torch.optim.AdamW(params, lr=0.1), factor=1.0):
    return grouped_optimizer(make, PARAMETERS, assign(groups, PARAMETERS), dict.fromkeys(PARAMETERS, factor))


def settings(made, key):
    return {
        name: group[key] for group in made.param_groups for name, p in PARAMETERS.items()
        if any(p is q for q in group["params"])
    }  # fmt: skip


def test_every_parameter_is_in_one_group_and_the_first_pattern_has_it():
    made = optimizer(ParameterGroup(r"bias$", lr_factor=2.0), ParameterGroup("^encoder", lr_factor=0.5), factor=10.0)
    assert sum(len(group["params"]) for group in made.param_groups) == len(PARAMETERS)
    assert settings(made, "lr") == pytest.approx(
        {"encoder.weight": 0.5, "encoder.bias": 2.0, "decoder.weight": 1.0, "decoder.bias": 2.0}
    )


def test_options_are_the_optimizers_for_these_parameters():
    made = optimizer(ParameterGroup("bias", options={"weight_decay": 0.0, "betas": [0.5, 0.9]}))
    assert settings(made, "weight_decay") == {name: 0.0 if "bias" in name else 0.01 for name in PARAMETERS}
    assert settings(made, "betas")["encoder.bias"] == [0.5, 0.9]


def test_an_option_that_the_optimizer_has_not_is_refused():
    """torch takes any key, and does nothing with it."""
    with pytest.raises(ValueError, match="'bias' asks for 'weight_decya', which AdamW has not; it has lr, betas"):
        optimizer(ParameterGroup("bias", options={"weight_decya": 0.0}))


@pytest.mark.parametrize(("pattern", "message"), [("(", "no regular expression"), ("encodr", "matches 'encodr'")])
def test_a_pattern_that_means_nothing_is_refused(pattern, message):
    with pytest.raises(ValueError, match=message):
        assign([ParameterGroup(pattern)], PARAMETERS)


def test_a_group_for_which_nothing_is_left_is_refused():
    with pytest.raises(ValueError, match=r"no parameter is left that matches '\.ecoder'"):
        assign([ParameterGroup("coder"), ParameterGroup(".ecoder")], PARAMETERS)
