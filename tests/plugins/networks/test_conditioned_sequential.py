from typing import ClassVar

import torch
from torch import nn

from sgm_plugins.networks.conditioned_sequential import ConditionedSequential


class AddEmb(nn.Module):
    asks: ClassVar = "emb"

    def forward(self, h, emb):
        return h + emb


class TimesContext(nn.Module):
    asks: ClassVar = "context"

    def forward(self, h, context):
        return h * context


class Wrapper(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *args):
        return self.inner(*args)


H, EMB, CONTEXT = torch.tensor(2.0), torch.tensor(3.0), torch.tensor(7.0)


def test_each_layer_is_given_what_it_asks_for_in_order():
    row = ConditionedSequential(AddEmb(), nn.ReLU(), TimesContext())
    assert row(H, EMB, CONTEXT).item() == (2 + 3) * 7
    assert row(-4 * H, EMB, CONTEXT).item() == 0


def test_a_layer_wrapped_after_construction_is_still_given_it():
    row = ConditionedSequential(AddEmb(), TimesContext())
    row[0] = Wrapper(row[0])
    assert row(H, EMB, CONTEXT).item() == (2 + 3) * 7
