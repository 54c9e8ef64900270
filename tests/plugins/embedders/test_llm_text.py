import pytest
import torch

from sgm_core.testing import check_component

transformers = pytest.importorskip("transformers")

from transformers import AutoTokenizer, Qwen3Model  # noqa: E402

from sgm_plugins.embedders.llm_text import LLMTextEmbedder  # noqa: E402
from sgm_plugins.embedders.token_mask import TokenMask  # noqa: E402

TEXTS = ["a cat", "", "a longer text of a few words"]
CHAT = {"template": "chat", "chat_options": {"enable_thinking": True}}


def states(folder, texts):
    """Each text alone, without padding: all hidden states, (layers + 1, tokens, width)."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), Qwen3Model.from_pretrained(folder)
    with torch.no_grad():
        for text in texts:
            rows = tokenizer(text, return_tensors="pt")
            yield torch.cat(model(**rows, output_hidden_states=True).hidden_states)


@pytest.mark.parametrize("options", [{}, CHAT, {"template": "say {prompt} now", "layers": [0, -2], "drop_prefix": 4}])
def test_it_keeps_the_contract_of_embedders(qwen3, options):
    inputs = {"caption": ["a", "b c"]}
    check_component("embedders", "llm_text", model=str(qwen3), max_length=40, inputs=inputs, **options)


@torch.no_grad()
@pytest.mark.parametrize("layer", [0, 2, -1, -2])
def test_tokens_are_those_of_transformers_and_padding_is_zero(qwen3, layer):
    found = LLMTextEmbedder(qwen3, max_length=40, layers=[layer]).eval()(TEXTS)
    assert found.shape == (3, 40, 24)
    for row, expected in zip(found, states(qwen3, TEXTS), strict=True):
        n = expected.shape[1]
        torch.testing.assert_close(row[:n], expected[layer])
        assert not row[n:].any()


@torch.no_grad()
def test_a_chat_is_that_of_the_pipeline_of_z_image(qwen3):
    """Its tokens are padded on the side that the tokenizer says, and taken out of there."""
    diffusers = pytest.importorskip("diffusers")
    pipeline = diffusers.ZImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=None,
        text_encoder=Qwen3Model.from_pretrained(qwen3),
        tokenizer=AutoTokenizer.from_pretrained(qwen3),
        transformer=None,
    )
    expected = pipeline.encode_prompt([*TEXTS], "cpu", do_classifier_free_guidance=False, max_sequence_length=32)[0]
    found = LLMTextEmbedder(qwen3, max_length=32, layers=[-2], **CHAT).eval()(TEXTS)
    assert [len(tokens) for tokens in expected] == [14, 9, 32]  # the last one is cut
    for row, tokens in zip(found, expected, strict=True):
        torch.testing.assert_close(row[: len(tokens)], tokens, atol=1e-5, rtol=1e-5)
        assert not row[len(tokens) :].any()


@torch.no_grad()
def test_layers_are_side_by_side_or_stacked(qwen3):
    options = {"max_length": 40, "layers": [1, -1]}
    joined = LLMTextEmbedder(qwen3, **options).eval()(TEXTS)
    stacked = LLMTextEmbedder(qwen3, join="stacked", **options).eval()(TEXTS)
    assert (joined.shape, stacked.shape) == ((3, 40, 48), (3, 2, 40, 24))
    for i, layer in enumerate(options["layers"]):
        alone = LLMTextEmbedder(qwen3, max_length=40, layers=[layer]).eval()(TEXTS)
        assert torch.equal(joined[:, :, 24 * i : 24 * (i + 1)], alone)
        assert torch.equal(stacked[:, i], alone)


@torch.no_grad()
def test_a_template_stands_around_the_prompt_and_its_beginning_can_be_dropped(qwen3):
    plain = LLMTextEmbedder(qwen3, max_length=40).eval()
    around = LLMTextEmbedder(qwen3, max_length=40, template="say {prompt} now").eval()
    assert torch.equal(around(["a cat"]), plain(["say a cat now"]))
    dropped = LLMTextEmbedder(qwen3, max_length=36, template="say {prompt} now", drop_prefix=4).eval()
    assert torch.equal(dropped(["a cat"]), around(["a cat"])[:, 4:])


@torch.no_grad()
def test_a_chat_has_a_system_message_and_options(qwen3):
    plain = LLMTextEmbedder(qwen3, max_length=60).eval()
    chat = LLMTextEmbedder(qwen3, max_length=60, template="chat", system="be short").eval()
    assert torch.equal(chat(["a cat"]), plain(["[s] be short\n[u] a cat\n[a] 00"]))
    thinking = LLMTextEmbedder(qwen3, max_length=60, **CHAT).eval()
    assert torch.equal(thinking(["a cat"]), plain(["[u] a cat\n[a]"]))


def test_a_mask_with_the_same_template_marks_the_tokens(qwen3):
    """The features of padding are zero, and none of the others."""
    for options in ({}, CHAT, {"template": "say {prompt} now", "drop_prefix": 3}):
        options = {"max_length": 30, **options}
        mask = TokenMask(qwen3, **{"template": "{prompt}", **options})(TEXTS)
        z = LLMTextEmbedder(qwen3, **options).eval()(TEXTS)
        assert torch.equal(mask.bool(), z.abs().sum(dim=-1) > 0)


def test_what_is_cut_off_is_counted_with_the_template_and_told(qwen3):
    embedder = LLMTextEmbedder(qwen3, max_length=10, template="say {prompt} now")
    [count] = embedder.count_tokens(["abcdefghij"])
    assert (count.tokens, count.limit) == (10, 10 - 1 - len("say "))  # a token ends each text
    assert count.cut.replace(" ", "") == "fghij"
    with pytest.warns(UserWarning, match="a text of 10 tokens, of which 5 are read"):
        embedder(["abcdefghij"])


def test_the_tokenizer_can_be_elsewhere_and_weights_random(qwen3, tmp_path):
    (tmp_path / "config.json").write_bytes((qwen3 / "config.json").read_bytes())
    embedder = LLMTextEmbedder(tmp_path, tokenizer=qwen3, max_length=12, load_weights=False)
    assert embedder(["a"]).shape == (1, 12, 24)
    assert all(key.startswith("transformer.") for key in embedder.state_dict())
    assert not any("lm_head" in key for key in embedder.state_dict())


SIZES = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 3, "head_dim": 8}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 60}
MODELS = {
    "gemma2": transformers.Gemma2Config(**SIZES, **HEADS),
    "mistral": transformers.MistralConfig(**SIZES, **HEADS),
    "llama": transformers.LlamaConfig(**SIZES, **HEADS),
    "gpt2": transformers.GPT2Config(n_embd=24, n_layer=3, n_head=4, vocab_size=60),
    "opt": transformers.OPTConfig(hidden_size=24, ffn_dim=32, num_hidden_layers=3, num_attention_heads=4, vocab_size=60,
                                  word_embed_proj_dim=24),
}  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_other_language_models_are_read_as_well(qwen3, tmp_path, name):
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(MODELS[name])
    model.save_pretrained(tmp_path)
    embedder = LLMTextEmbedder(tmp_path, tokenizer=qwen3, max_length=20, layers=[0, 1, 2, 3], join="stacked").eval()
    rows = AutoTokenizer.from_pretrained(qwen3)("a cat", return_tensors="pt")
    expected = model.eval()(**rows, output_hidden_states=True).hidden_states
    torch.testing.assert_close(embedder(["a cat"])[0, :, :6], torch.cat(expected), atol=1e-5, rtol=1e-5)


def test_widths_are_known_before_it_is_built(qwen3):
    shapes = {"model": qwen3, "max_length": 12, "layers": [1, 2]}
    assert LLMTextEmbedder.shapes(None, **shapes, join="concatenated") == (12, 48)
    assert LLMTextEmbedder.shapes(None, **shapes, join="stacked") == (2, 12, 24)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": "no place"}, r"template is 'no place'; a text with \{prompt\}"),
        ({"system": "be short"}, "system and chat_options are about a chat"),
        ({"layers": [4]}, "layers has 4; this model has 3 layers: -4 to 3 work"),
        ({"layers": []}, "layers is empty"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(qwen3, options, message):
    with pytest.raises(ValueError, match=message):
        LLMTextEmbedder(qwen3, **options)


def test_a_chat_needs_a_tokenizer_that_has_one(qwen3, bert):
    with pytest.raises(ValueError, match="the tokenizer has no chat template"):
        LLMTextEmbedder(qwen3, tokenizer=bert, **CHAT)(["a"])


def test_what_is_no_list_of_texts_is_refused(qwen3):
    with pytest.raises(ValueError, match="a list of strings"):
        LLMTextEmbedder(qwen3)("a cat")
