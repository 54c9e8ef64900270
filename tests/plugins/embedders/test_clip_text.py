import warnings

import pytest
import torch

from sgm_core.testing import check_component

transformers = pytest.importorskip("transformers")

from transformers import AutoTokenizer, CLIPTextModel  # noqa: E402

from sgm_plugins.embedders.clip_text import ClipTextEmbedder  # noqa: E402

TEXTS = ["a cat", "", "a very long text that does not fit"]


def reference(clip, texts=TEXTS):
    """transformers' own tokenizer and forward."""
    ids = AutoTokenizer.from_pretrained(clip)(
        texts, padding="max_length", max_length=16, truncation=True, return_tensors="pt"
    )["input_ids"]
    with torch.no_grad():
        return CLIPTextModel.from_pretrained(clip)(input_ids=ids, output_hidden_states=True)


def embed(clip, texts=TEXTS, **options):
    with torch.no_grad():
        return ClipTextEmbedder(clip, 16, **options)(texts)


def test_it_keeps_the_contract_of_embedders(clip):
    check_component("embedders", "clip_text", model=str(clip), max_length=16, inputs={"caption": ["a cat", "b"]})


@pytest.mark.parametrize("layer_idx", [0, 1, 3, -2])
def test_a_hidden_layer_is_transformers_own(clip, layer_idx):
    torch.testing.assert_close(
        embed(clip, layer="hidden", layer_idx=layer_idx), reference(clip).hidden_states[layer_idx]
    )


def test_the_last_layer_and_the_pooled_text_are_transformers_own(clip):
    out = reference(clip)
    z, pooled = embed(clip, return_pooled=True)
    torch.testing.assert_close(z, out.last_hidden_state)
    torch.testing.assert_close(pooled, out.pooler_output)
    torch.testing.assert_close(embed(clip, layer="pooled"), out.pooler_output[:, None])
    torch.testing.assert_close(embed(clip, layer="none"), out.pooler_output)
    shapes = {"model": str(clip), "max_length": 16, "chunks": 1, "return_pooled": False}
    assert ClipTextEmbedder.shapes(None, layer="none", **shapes) == [tuple(out.pooler_output.shape[1:])]


@pytest.mark.parametrize("weighting", [False, True])
def test_what_is_cut_off_is_told_in_tokens_and_words_and_transformers_is_silent(clip, caplog, weighting):
    """transformers' own alarm speaks of indexing errors, which there are none of."""
    embedder = ClipTextEmbedder(clip, max_length=6, weighting=weighting, load_weights=False)
    text = "a b c d e f g " * 10
    [count] = embedder.count_tokens([text])
    assert (count.tokens, count.limit) == (70, 4)
    assert count.cut.split() == ("a b c d e f g " * 10).split()[4:]
    with pytest.warns(UserWarning, match=r"^a text of 70 tokens, of which 4 are read; cut off: 'e f g a b") as caught:
        embedder([text, text])
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embedder([text, "a b c d"])
    assert embedder.count_tokens(["a b c d"]) == [(4, 4, "")]
    assert "longer than" not in caplog.text


def test_a_shorter_row_cuts_off(clip):
    with torch.no_grad():
        z = ClipTextEmbedder(clip, 5)(["a b c d e"])
        same = ClipTextEmbedder(clip, 5)(["a b c"])
    assert z.shape == (1, 5, 32)
    assert torch.equal(z, same)


def test_a_prompt_of_several_rows_is_each_row_by_itself(clip):
    letters = list("abcdefghijklmnopqrst")  # each a token; a row has room for 14
    z, pooled = embed(clip, [" ".join(letters), "a"], chunks=2, return_pooled=True)
    first, first_pooled = embed(clip, [" ".join(letters[:14]), "a"], return_pooled=True)
    second = embed(clip, [" ".join(letters[14:]), ""])
    torch.testing.assert_close(z, torch.cat([first, second], dim=1))
    torch.testing.assert_close(pooled, first_pooled)


def test_weights_move_a_token_from_the_empty_prompt_through_its_own(clip):
    plain, empty = embed(clip, ["a b c"]), embed(clip, [""])
    weighted = embed(clip, ["a (b:1.5) c"], weighting=True)
    expected = plain.clone()
    expected[:, 2] = empty[:, 2] + 1.5 * (plain[:, 2] - empty[:, 2])
    torch.testing.assert_close(weighted, expected)


def test_a_prompt_without_weights_is_embedded_to_the_bit_as_without_weighting(clip):
    assert torch.equal(embed(clip), embed(clip, weighting=True))
    assert torch.equal(embed(clip, ["a (b:1.0) c"], weighting=True), embed(clip, ["a b c"]))


def test_without_weighting_brackets_are_text(clip):
    assert not torch.allclose(embed(clip, ["(b:1.5)"]), embed(clip, ["(b:1.5)"], weighting=True))


def test_random_weights_need_no_file_of_weights(clip, tmp_path):
    (tmp_path / "config.json").write_bytes((clip / "config.json").read_bytes())
    torch.manual_seed(0)
    made = ClipTextEmbedder(tmp_path, 16, load_weights=False).state_dict()
    loaded = ClipTextEmbedder(clip, 16).state_dict()
    assert {key: tensor.shape for key, tensor in made.items()} == {key: t.shape for key, t in loaded.items()}
    assert not torch.equal(made["transformer.text_model.embeddings.token_embedding.weight"],
                           loaded["transformer.text_model.embeddings.token_embedding.weight"])  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "hidden"}, "layer is 'hidden' and layer_idx None"),
        ({"layer_idx": 1}, "layer is 'last' and layer_idx 1"),
        ({"layer": "hidden", "layer_idx": 4}, "has the hidden layers 0 to 3"),
        ({"max_length": 17}, "has a context of 16 tokens: use chunks"),
    ],
)
def test_options_that_can_not_be_are_refused(clip, options, message):
    with pytest.raises(ValueError, match=message):
        ClipTextEmbedder(clip, **{"max_length": 16, **options})


def test_a_folder_that_is_not_there_says_what_would_work():
    with pytest.raises(ValueError, match=r"^/nowhere/clip: no such folder. Give a folder with config.json, "):
        ClipTextEmbedder("/nowhere/clip")


def test_a_model_of_the_hub_that_was_not_downloaded_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        ValueError,
        match=r"^somebody/model is neither a folder nor in the local cache of the hub \(.*\). The hub was not asked",
    ):
        ClipTextEmbedder("somebody/model", local_files_only=True)


def test_a_file_that_lacks_weights_is_refused(clip, tmp_path):
    from safetensors.torch import load_file, save_file

    for name in ("config.json", "vocab.json", "merges.txt", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((clip / name).read_bytes())
    weights = load_file(clip / "model.safetensors")
    del weights["text_model.final_layer_norm.bias"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"^{tmp_path} cannot be loaded: its file has no .*final_layer_norm.bias"):
        ClipTextEmbedder(tmp_path, 16)


@pytest.mark.parametrize("texts", [torch.ones(2), ["a", 3], [], "a", [b"a"]])
def test_what_is_no_list_of_texts_is_refused(clip, texts):
    embedder = ClipTextEmbedder(clip, 16)
    for call in (embedder, embedder.check):
        with pytest.raises(ValueError, match="a list of strings, one per sample, can be embedded"):
            call(texts)


def test_a_copy_and_a_pickle_embed_alike(clip):
    import copy
    import pickle

    embedder = ClipTextEmbedder(clip, 16)
    z = embedder(["a"])
    for other in (copy.deepcopy(embedder), pickle.loads(pickle.dumps(embedder))):
        assert torch.equal(other(["a"]), z)
