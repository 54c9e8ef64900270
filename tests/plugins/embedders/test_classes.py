from __future__ import annotations

import pytest
import torch

from sgm_core.slots import EmbedderSlot
from sgm_plugins.conditioners.general import GeneralConditioner
from sgm_plugins.embedders.classes import ClassEmbedder


def test_each_class_has_its_row_of_the_weight() -> None:
    embedder = ClassEmbedder(embed_dim=4, n_classes=10)
    labels = torch.tensor([3, 0, 3])
    assert torch.equal(embedder(labels), embedder.state_dict()["embedding.weight"][labels])
    assert embedder.state_dict().keys() == {"embedding.weight"}
    assert embedder.embedding.weight.shape == (10, 4)


def test_a_token_has_a_sequence_axis() -> None:
    embedder = ClassEmbedder(4, 10, add_sequence_dim=True)
    labels = torch.tensor([1, 2])
    assert torch.equal(embedder(labels), embedder.embedding(labels)[:, None])


@pytest.mark.parametrize("labels", [torch.tensor([0, 9]), torch.tensor([5], dtype=torch.int32), [1, 2]])
def test_labels_in_range_pass_the_check(labels: torch.Tensor | list[int]) -> None:
    ClassEmbedder(4, 10).check(labels)


@pytest.mark.parametrize(("labels", "worst"), [([3, 10, 12, 11], 12), ([-1, 3], -1), ([-7, 11], -7), ([-1, 30], 30)])
def test_the_worst_label_out_of_range_is_named(labels: list[int], worst: int) -> None:
    with pytest.raises(ValueError, match=rf"label {worst} .* 0\.\.9 \(n_classes is 10\)"):
        ClassEmbedder(4, 10).check(torch.tensor(labels))


@pytest.mark.parametrize("labels", [torch.tensor([1.0]), torch.tensor([True]), [0.5], ["cat"], None])
def test_labels_that_are_no_integers_are_refused(labels: object) -> None:
    with pytest.raises(ValueError, match=r"integers in 0\.\.9"):
        ClassEmbedder(4, 10).check(labels)  # type: ignore[arg-type]


def test_labels_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 1\)"):
        ClassEmbedder(4, 10).check(torch.tensor([[1], [2]]))


@pytest.mark.parametrize("token", [False, True])
def test_the_unconditional_state_is_the_label_that_stands_for_none(token: bool) -> None:
    """B22: the reference's class embedders asked for a `key` that they did not have, and could not be used at all."""
    embedder = ClassEmbedder(4, 11, add_sequence_dim=token)
    slot = EmbedderSlot(embedder, input_key="cls", trainable=True, ucg_rate=0.1, ucg_value=10)
    conditioner = GeneralConditioner([slot])
    batch = {"cls": torch.tensor([3, 7])}
    for c, rows in ((conditioner.unconditional(batch), [10, 10]), (conditioner(batch, drop=False), [3, 7])):
        expected = embedder.embedding.weight[rows]
        assert torch.equal(c.crossattn[:, 0] if token else c.vector, expected)
    assert batch["cls"].tolist() == [3, 7]
