"""Embedder slots: what `trainable`, `ucg_rate`, `ucg_value` and `output` mean."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sgm_core.slots import EmbedderSlot, describe


class Labels(nn.Module):
    """A table with a row for each label."""

    def __init__(self, n: int = 10, d: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n, d)
        self.dropout = nn.Dropout(dropout)

    def forward(self, labels: Tensor) -> Tensor:
        return self.dropout(self.embedding(labels))

    def check(self, labels: Tensor) -> None:
        if int(labels.max()) >= self.embedding.num_embeddings:
            raise ValueError(f"label {int(labels.max())} has no vector")


class Adapter(nn.Module):
    """A frozen core with a trained layer on top."""

    def __init__(self) -> None:
        super().__init__()
        self.core = nn.Linear(3, 3).requires_grad_(False)
        self.top = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.top(self.core(x))


class Gives(nn.Module):
    """Gives whatever it was made with."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def forward(self, *entries: Any) -> Any:
        return self.value


def settled(slot: EmbedderSlot) -> nn.Module:
    slot.settle(slot.module)
    return slot.module


# --- what a config can get wrong ---


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "give exactly one"),
        ({"input_key": "a", "input_keys": ["b"]}, "give exactly one"),
        ({"input_keys": []}, "give exactly one"),
        ({"input_key": "a", "ucg_rate": 1.5}, "1.5"),
        ({"input_key": "a", "ucg_rate": -0.1}, "-0.1"),
        ({"input_keys": ["a", "b"], "ucg_value": 0}, "one value for each"),
        ({"input_keys": ["a", "b"], "ucg_value": [0]}, "one value for each"),
        ({"input_key": "a", "output": "cross attn"}, "keyword argument"),
        ({"input_key": "a", "output": "context"}, "write 'crossattn'"),
        ({"input_key": "a", "output": "y"}, "write 'vector'"),
    ],
)
def test_a_slot_that_means_nothing_is_refused(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        EmbedderSlot(Labels(), **arguments)


def test_an_embedder_must_be_a_module() -> None:
    with pytest.raises(ValueError, match=r"nn\.Module"):
        EmbedderSlot(lambda x: x, input_key="a")


def test_a_trainable_slot_that_would_never_train_is_refused() -> None:
    """B10: an embedder that froze itself was declared trainable and silently never trained."""
    with pytest.raises(ValueError, match="freezes all of them itself"):
        EmbedderSlot(Labels().requires_grad_(False), input_key="a", trainable=True)
    with pytest.raises(ValueError, match="has none"):
        EmbedderSlot(nn.Identity(), input_key="a", trainable=True)


def test_the_rate_of_a_slot_can_not_be_changed() -> None:
    """B21: the reference sets rates to zero and back; here there is no state that an error could leave behind."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        EmbedderSlot(Labels(), input_key="a", ucg_rate=0.5).ucg_rate = 0.0


# --- frozen and trained ---


def test_frozen_means_eval_and_no_gradient() -> None:
    slot = EmbedderSlot(Labels(dropout=0.9), input_key="a")
    module = settled(slot)
    assert not any(m.training for m in module.modules())
    assert not any(p.requires_grad for p in module.parameters())
    (output,) = slot.embed(module, [torch.arange(10)])
    assert not output.requires_grad
    assert torch.equal(output, module.embedding.weight)


def test_a_frozen_embedder_builds_no_graph_even_for_an_entry_that_requires_a_gradient() -> None:
    slot = EmbedderSlot(nn.Linear(3, 2), input_key="a")
    assert not slot.embed(settled(slot), [torch.ones(2, 3, requires_grad=True)])[0].requires_grad


def test_trainable_leaves_what_the_embedder_froze() -> None:
    slot = EmbedderSlot(Adapter(), input_key="a", trainable=True)
    module = settled(slot)
    assert module.training
    assert [name for name, p in module.named_parameters() if p.requires_grad] == ["top.weight", "top.bias"]
    slot.embed(module, [torch.ones(2, 3)])[0].sum().backward()
    assert module.top.weight.grad is not None
    assert module.core.weight.grad is None


def test_a_trainable_embedder_follows_the_grad_mode_of_the_caller() -> None:
    slot = EmbedderSlot(Labels(), input_key="a", trainable=True)
    assert slot.embed(slot.module, [torch.arange(3)])[0].requires_grad
    with torch.no_grad():
        assert not slot.embed(slot.module, [torch.arange(3)])[0].requires_grad


def test_an_embedder_gives_one_tensor_or_several() -> None:
    one, two = torch.zeros(2, 3), torch.zeros(2, 4, 3)
    for value, expected in ((one, (one,)), ([one, two], (one, two)), ((two, one), (two, one))):
        slot = EmbedderSlot(Gives(value), input_key="a")
        outputs = slot.embed(slot.module, [one])
        assert len(outputs) == len(expected)
        assert all(a is b for a, b in zip(outputs, expected, strict=True))


@pytest.mark.parametrize("value", [None, {"pooled": torch.zeros(1)}, [], [torch.zeros(1), 3.0], "text"])
def test_an_output_that_is_no_tensor_is_refused(value: Any) -> None:
    slot = EmbedderSlot(Gives(value), input_key="a")
    with pytest.raises(ValueError, match="one tensor or a list of tensors"):
        slot.embed(slot.module, [None])


# --- dropping ---


def test_the_draw_is_bernoulli_per_sample_from_the_generator() -> None:
    slot = EmbedderSlot(Labels(), input_key="a", ucg_rate=0.3)
    entries = [torch.zeros(20_000, dtype=torch.int64)]
    keep = slot.draw(entries, torch.Generator().manual_seed(5))
    expected = torch.bernoulli((1 - 0.3) * torch.ones(20_000), generator=torch.Generator().manual_seed(5))
    assert torch.equal(keep, expected.bool())
    # 5 standard deviations of the mean of 20000 draws
    assert abs(keep.float().mean().item() - 0.7) < 5 * (0.3 * 0.7 / 20_000) ** 0.5


def test_without_a_generator_the_draw_is_from_the_global_state() -> None:
    slot = EmbedderSlot(Labels(), input_key="a", ucg_rate=0.5)
    torch.manual_seed(7)
    first = slot.draw([["a"] * 64])
    torch.manual_seed(7)
    assert torch.equal(first, torch.bernoulli(0.5 * torch.ones(64)).bool())


@pytest.mark.parametrize(("rate", "kept"), [(0.0, 8), (1.0, 0)])
def test_the_limits_of_the_rate(rate: float, kept: int) -> None:
    slot = EmbedderSlot(Labels(), input_key="a", ucg_rate=rate)
    assert int(slot.draw([torch.zeros(8)]).sum()) == kept


KEEP = torch.tensor([True, False, True])


@pytest.mark.parametrize(
    ("entry", "value", "expected"),
    [
        (torch.tensor([1, 2, 3]), 9, torch.tensor([1, 9, 3])),
        (torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), 0, torch.tensor([[1.0, 2.0], [0.0, 0.0], [5.0, 6.0]])),
        (torch.tensor([[1, 2], [3, 4], [5, 6]]), [7, 8], torch.tensor([[1, 2], [7, 8], [5, 6]])),
        (torch.ones(3, 2, 2), [[0.0], [5.0]], torch.tensor([[[1.0] * 2] * 2, [[0.0] * 2, [5.0] * 2], [[1.0] * 2] * 2])),
        (["cat", "dog", "cow"], "", ["cat", "", "cow"]),
        (("cat", "dog", "cow"), "pet", ["cat", "pet", "cow"]),
    ],
)
def test_the_value_replaces_dropped_rows_on_a_copy(entry: Any, value: Any, expected: Any) -> None:
    """B23: the reference wrote the value into the caller's batch."""
    before = entry.clone() if isinstance(entry, Tensor) else list(entry)
    (replaced,) = EmbedderSlot(nn.Identity(), input_key="a", ucg_value=value).substitute([entry], KEEP)
    if isinstance(entry, Tensor):
        assert torch.equal(replaced, expected)
        assert replaced.dtype == entry.dtype
        assert torch.equal(entry, before)
    else:
        assert replaced == expected
        assert list(entry) == before


def test_one_draw_replaces_the_rows_of_all_keys_of_a_slot() -> None:
    slot = EmbedderSlot(nn.Identity(), input_keys=["txt", "size", "id"], ucg_value=["", 0, None])
    ids = torch.arange(3)
    text, size, left = slot.substitute([["a", "b", "c"], torch.ones(3, 2), ids], KEEP)
    assert text == ["a", "", "c"]
    assert torch.equal(size, torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]))
    assert left is ids


def test_without_a_mask_every_row_is_replaced() -> None:
    slot = EmbedderSlot(nn.Identity(), input_keys=["txt", "cls"], ucg_value=["", 9])
    text, labels = slot.substitute([["a", "b"], torch.tensor([1, 2])])
    assert text == ["", ""]
    assert labels.tolist() == [9, 9]


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        (torch.tensor([1, 2, 3]), 0.5),  # an integer entry would round it
        (torch.tensor([1, 2, 3]), ""),
        (torch.tensor([1, 2, 3]), [1, 2, 3]),  # a row is one number
        (torch.zeros(3, 2), [1.0, 2.0, 3.0]),
        (torch.zeros(3, 2), [[1.0], [2.0, 3.0]]),
        (["a", "b", "c"], 0),
        ([1, 2, 3], ""),
    ],
)
def test_a_value_that_can_not_stand_in_is_refused_before_training(entry: Any, value: Any) -> None:
    slot = EmbedderSlot(nn.Identity(), input_key="a", ucg_value=value)
    with pytest.raises(ValueError, match="cannot replace"):
        slot.check(slot.module, [entry])
    with pytest.raises(ValueError, match="cannot replace"):
        slot.substitute([entry], KEEP)


def test_check_asks_the_embedder_about_the_entries_and_about_the_value() -> None:
    fine = EmbedderSlot(Labels(n=10), input_key="a", ucg_rate=0.1, ucg_value=9)
    fine.check(fine.module, [torch.tensor([0, 9])])
    with pytest.raises(ValueError, match="label 12"):
        fine.check(fine.module, [torch.tensor([0, 12])])
    beyond = EmbedderSlot(Labels(n=10), input_key="a", ucg_rate=0.1, ucg_value=10)
    with pytest.raises(ValueError, match="ucg_value 10 cannot be embedded: label 10"):
        beyond.check(beyond.module, [torch.tensor([0, 9])])


@pytest.mark.parametrize("entries", [[3.0], [torch.tensor(1.0)], [{"a": 1}], [[]], [["a", "b"], torch.zeros(3)]])
def test_entries_without_a_row_per_sample_can_not_be_dropped(entries: list[Any]) -> None:
    keys = [f"key{i}" for i in range(len(entries))]
    slot = EmbedderSlot(nn.Identity(), input_keys=keys, ucg_rate=0.1)
    with pytest.raises(ValueError, match="must"):
        slot.check(slot.module, entries)
    never_dropped = EmbedderSlot(nn.Identity(), input_keys=keys)
    never_dropped.check(never_dropped.module, entries)


def test_blank_zeroes_dropped_samples_even_where_they_are_nan() -> None:
    output = torch.tensor([[1.0, 2.0], [float("nan"), float("inf")], [3.0, 4.0]])
    assert EmbedderSlot.blank(output, KEEP).tolist() == [[1.0, 2.0], [0.0, 0.0], [3.0, 4.0]]


def test_all_rows_of_a_sample_are_blanked_together() -> None:
    frames = torch.arange(1.0, 7.0)[:, None]  # 3 clips of 2 frames, frames fastest
    assert EmbedderSlot.blank(frames, KEEP).flatten().tolist() == [1.0, 2.0, 0.0, 0.0, 5.0, 6.0]
    with pytest.raises(ValueError, match="for 3 samples"):
        EmbedderSlot.blank(torch.ones(4, 2), KEEP)


def test_dropping_never_reads_a_tensor_back_from_its_device() -> None:
    """A meta tensor has no values: whatever would wait for a device fails on it."""
    meta = torch.device("meta")
    slot = EmbedderSlot(nn.Identity(), input_keys=["a", "b"], ucg_rate=0.5, ucg_value=[1, [2.0, 3.0]])
    entries = [torch.zeros(4, dtype=torch.int64, device=meta), torch.zeros(4, 2, device=meta)]
    keep = slot.draw(entries)
    assert [entry.device for entry in slot.substitute(entries, keep)] == [meta, meta]
    assert slot.blank(entries[1], keep).device == meta


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.zeros(2, 3), "a float32 tensor (2, 3)"),
        (["a", "b"], "a list of 2 str"),
        ([], "an empty list"),
        (3, "an int"),
        ({}, "a dict"),
    ],
)
def test_describe(value: Any, said: str) -> None:
    assert describe(value) == said
