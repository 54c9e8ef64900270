"""The frozen embedder keeps the contract, and its vectors mean something."""

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sgm_minilm.embedder import MiniLMEmbedder
from sgm_minilm.encoder import model_folder

from sgm_core.testing import check_component

TEXTS = {"caption": ["a handwritten seven", "", "the digit 7"]}


@pytest.mark.parametrize("output", ["tokens", "pooled", "both"])
def test_it_keeps_the_contract_of_embedders(output):
    check_component("embedders", MiniLMEmbedder, inputs=TEXTS, output=output, max_length=16)


def test_its_outputs_have_the_documented_shapes():
    tokens, pooled = MiniLMEmbedder(output="both", max_length=16)(TEXTS["caption"])
    assert (tokens.shape, pooled.shape) == ((3, 16, 384), (3, 384))
    assert torch.equal(MiniLMEmbedder(output="tokens", max_length=16)(TEXTS["caption"]), tokens)
    assert torch.equal(MiniLMEmbedder(output="pooled", max_length=16)(TEXTS["caption"]), pooled)


def test_the_pooled_vector_is_that_of_sentence_transformers():
    texts = TEXTS["caption"]
    judge = SentenceTransformer(str(model_folder()), device="cpu")
    expected = judge.encode(texts, convert_to_tensor=True)
    torch.testing.assert_close(MiniLMEmbedder(output="pooled")(texts), expected, rtol=1e-4, atol=1e-5)


def test_like_meanings_lie_closer_than_like_words():
    one, other, unlike = MiniLMEmbedder(output="pooled")(
        ["a photo of a cat", "picture of a kitten", "a photo of a car"]
    )
    assert one @ other > one @ unlike


def test_there_is_nothing_to_train():
    assert not any(parameter.requires_grad for parameter in MiniLMEmbedder().parameters())


@pytest.mark.parametrize(
    ("entry", "seen"),
    [
        (torch.tensor([1]), "a Tensor"),
        ("seven", "a str"),
        (["seven", 7], "a list of int and str"),
        (None, "a NoneType"),
    ],
)
def test_anything_but_a_list_of_strings_is_refused(entry, seen):
    with pytest.raises(ValueError, match=f"reads a list of strings.*the batch has {seen}$"):
        MiniLMEmbedder().check(entry)
