import sgm_core as sgm
import torch
from sgm_core.testing import check_component

from sgm_plugins.tools.new.templates.embedders import ExampleEmbedder


def test_a_config_finds_it_by_name() -> None:
    found = sgm.resolve("embedders", "sgm-example:example")
    assert found is ExampleEmbedder


def test_it_keeps_the_contract_of_its_kind() -> None:
    check_component("embedders", ExampleEmbedder, inputs={"cls": torch.tensor([1, 2, 3])}, embed_dim=8)


def test_the_vector_is_linear_in_the_number() -> None:
    vectors = ExampleEmbedder(embed_dim=8)(torch.tensor([1, 2, 3]))
    assert vectors.shape == (3, 8)
    torch.testing.assert_close(vectors[1] - vectors[0], vectors[2] - vectors[1])


def test_it_can_be_trained() -> None:
    embedder = ExampleEmbedder(embed_dim=8)
    embedder(torch.tensor([1.0, 2.0])).sum().backward()
    assert all(parameter.grad is not None for parameter in embedder.parameters())
