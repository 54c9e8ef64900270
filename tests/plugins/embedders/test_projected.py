import pytest
import torch
from torch import nn

import sgm_core as sgm
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


TOKENS = {"few": torch.ones(2, 3, 6), "many": torch.ones(2, 5, 8)}
SLOTS = [
    {"input_key": key, "trainable": True,
     "embedder": {"use": "projected", "embedder": "identity", "in_features": width, "width": 4}}
    for key, width in (("few", 6), ("many", 8))
]  # fmt: skip


def test_tokens_of_embedders_that_it_brought_to_one_width_follow_each_other():
    together = sgm.build("conditioners", {"use": "general", "embedders": SLOTS, "join_tokens": True})
    cond = together(TOKENS).crossattn
    assert cond.shape == (2, 3 + 5, 4)
    assert torch.equal(cond[:, :3], together.embedders[0](TOKENS["few"]))
    apart = sgm.build("conditioners", {"use": "general", "embedders": SLOTS})
    with pytest.raises(ValueError, match=r"crossattn output \(2, 5, 4\) cannot be joined to \(2, 3, 4\)"):
        apart(TOKENS)


def test_the_width_of_joined_tokens_is_theirs_before_anything_is_built():
    from sgm_plugins.conditioners.general import GeneralConditioner

    assert GeneralConditioner.route((3, 4), None, join_tokens=True) == ("crossattn", 0)
    assert GeneralConditioner.route((3, 4), None, join_tokens=False) == ("crossattn", 1)
