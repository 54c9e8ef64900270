import pytest
import torch
from torch import nn

from sgm_core.testing import check_component
from sgm_plugins.embedders.classes import ClassEmbedder
from sgm_plugins.embedders.projected import ProjectedEmbedder

LABELS = torch.tensor([3, 1])


class Two(nn.Module):
    """Tokens and a vector of one width."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, labels):
        return torch.ones(len(labels), 4, 5), torch.full((len(labels), 5), 2.0)

    def check(self, labels):
        raise ValueError("as the embedder says")


def test_it_keeps_the_contract_of_embedders():
    check_component(
        "embedders", "projected", embedder={"use": "class", "embed_dim": 6}, in_features=6, width=4,
        inputs={"cls": LABELS},
    )  # fmt: skip


def test_each_output_is_projected():
    embedder = ProjectedEmbedder(Two(), 5, 7)
    tokens, vector = embedder(LABELS)
    assert tokens.shape == (2, 4, 7)
    torch.testing.assert_close(vector, nn.functional.linear(torch.full((2, 5), 2.0), *embedder.projection.parameters()))
    with pytest.raises(ValueError, match="as the embedder says"):
        embedder.check(LABELS)


def test_what_is_frozen_stays_so_and_the_layer_learns():
    frozen, free = (ProjectedEmbedder(ClassEmbedder(6, 10), 6, 4, freeze=freeze).train() for freeze in (True, False))
    for embedder, learns in ((frozen, False), (free, True)):
        embedder(LABELS).sum().backward()
        assert embedder.projection.weight.grad is not None
        assert (embedder.embedder.embedding.weight.grad is not None) == learns
        assert embedder.embedder.training == learns


def test_another_width_says_the_right_one():
    with pytest.raises(ValueError, match="in_features is 5: set it to 6"):
        ProjectedEmbedder(ClassEmbedder(6, 10), 5, 4)(LABELS)
    with pytest.raises(ValueError, match="set in_features to 6"):
        ProjectedEmbedder.shapes((), embedder=lambda labels: (6,), in_features=5, width=4)
