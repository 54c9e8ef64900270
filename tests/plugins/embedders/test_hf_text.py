import pytest
import torch

from sgm_core.testing import check_component

transformers = pytest.importorskip("transformers")

from transformers import AutoTokenizer, BertModel, T5Config, T5ForConditionalGeneration  # noqa: E402

from sgm_plugins.embedders.hf_text import HFTextEmbedder  # noqa: E402

TEXTS = ["a cat", "", "a very long text that does not fit"]


@pytest.mark.parametrize("pooling", ["none", "mean", "cls"])
def test_it_keeps_the_contract_of_embedders(bert, pooling):
    check_component("embedders", "hf_text", model=str(bert), max_length=12, pooling=pooling, inputs={"c": ["a", "b c"]})


def test_tokens_and_pooled_vectors_are_those_of_transformers(bert):
    rows = AutoTokenizer.from_pretrained(bert)(
        TEXTS, padding="max_length", max_length=12, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        out = BertModel.from_pretrained(bert)(**rows).last_hidden_state
        mask = rows["attention_mask"][:, :, None]
        torch.testing.assert_close(HFTextEmbedder(bert, 12)(TEXTS), out * mask)
        torch.testing.assert_close(HFTextEmbedder(bert, 12, "cls")(TEXTS), out[:, 0])
        mean = (out * mask).sum(1) / mask.sum(1)
        torch.testing.assert_close(HFTextEmbedder(bert, 12, "mean")(TEXTS), mean)
        unit = HFTextEmbedder(bert, 12, "mean", normalize=True)(TEXTS)
    torch.testing.assert_close(unit, torch.nn.functional.normalize(mean, dim=-1))


def test_a_prefix_goes_before_each_text(bert):
    with_prefix = HFTextEmbedder(bert, 12, prefix="a ").eval()
    assert torch.equal(with_prefix(["cat"]), HFTextEmbedder(bert, 12).eval()(["a cat"]))


def test_of_a_model_with_a_decoder_the_encoder_alone_is_taken(t5, tmp_path):
    config = T5Config.from_pretrained(t5)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((t5 / name).read_bytes())
    embedder = HFTextEmbedder(tmp_path, 12)
    assert embedder(["a"]).shape == (1, 12, 24)
    assert not any("decoder" in key for key in embedder.state_dict())


def test_random_weights(bert, tmp_path):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((bert / name).read_bytes())
    assert HFTextEmbedder(tmp_path, 12, load_weights=False)(["a"]).shape == (1, 12, 24)


def test_tokens_are_not_normalized(bert):
    with pytest.raises(ValueError, match="normalize is about a pooled vector"):
        HFTextEmbedder(bert, normalize=True)
