from typing import ClassVar

import torch
from torch import nn

from sgm_plugins.networks.conditioned_sequential import ConditionedSequential


class AddEmb(nn.Module):
    asks: ClassVar = ("emb",)

    def forward(self, h, emb):
        return h + emb


class TimesContextMinusEmb(nn.Module):
    asks: ClassVar = ("context", "emb")

    def forward(self, h, context, emb):
        return h * context - emb


class Wrapper(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *args):
        return self.inner(*args)


H = torch.tensor(2.0)
GIVEN = {"emb": torch.tensor(3.0), "context": torch.tensor(7.0), "clips": "nobody asks for it"}


def test_each_layer_is_given_what_it_asks_for_in_order():
    row = ConditionedSequential(AddEmb(), nn.ReLU(), TimesContextMinusEmb())
    assert row(H, GIVEN).item() == (2 + 3) * 7 - 3
    assert row(-4 * H, GIVEN).item() == -3


def test_a_layer_wrapped_after_construction_is_still_given_it():
    row = ConditionedSequential(AddEmb(), TimesContextMinusEmb())
    row[0] = Wrapper(row[0])
    assert row(H, GIVEN).item() == (2 + 3) * 7 - 3
