"""Numbers of classes stay whole numbers on their way to the network, and dropped ones become "no class"."""

import pytest
import torch

from sgm_core.slots import EmbedderSlot
from sgm_plugins.conditioners.general import GeneralConditioner
from sgm_plugins.embedders.class_index import ClassIndexEmbedder

LABELS = torch.tensor([3, 0, 9])


def conditioner(rate: float) -> GeneralConditioner:
    return GeneralConditioner([EmbedderSlot(ClassIndexEmbedder(10), input_key="cls", ucg_rate=rate)])


def test_classes_arrive_as_integers():
    vector = conditioner(0.5)({"cls": LABELS}, drop=False).vector
    assert vector.dtype == torch.int64
    assert vector.tolist() == [[3], [0], [9]]


def test_no_class_is_the_number_after_the_last():
    unconditional = conditioner(0.1).unconditional({"cls": LABELS}).vector
    dropped = conditioner(1.0)({"cls": LABELS}).vector
    for vector in (unconditional, dropped):
        assert vector.dtype == torch.int64
        assert vector.tolist() == [[10]] * 3


def test_some_are_dropped_and_the_others_stay():
    vector = conditioner(0.5)({"cls": torch.full((1000,), 3)}).vector
    assert sorted(vector.unique().tolist()) == [3, 10]


def test_no_class_may_be_asked_for_and_nothing_beyond_it():
    conditioner(0.1).check({"cls": torch.tensor([10])})
    for labels in ([11], [-1]):
        with pytest.raises(ValueError, match=rf"conditioner.embedders\[0\].*label {labels[0]} has no vector.*0..10"):
            conditioner(0.1).check({"cls": torch.tensor(labels)})


def test_nothing_of_it_is_saved():
    assert not ClassIndexEmbedder(10).state_dict()
