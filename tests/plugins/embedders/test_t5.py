import pytest
import torch

from sgm_core.testing import check_component

transformers = pytest.importorskip("transformers")

from transformers import AutoTokenizer, T5EncoderModel  # noqa: E402

from sgm_plugins.embedders.clip_t5 import ClipT5Embedder  # noqa: E402
from sgm_plugins.embedders.t5 import ByT5TextEmbedder, T5TextEmbedder  # noqa: E402

TEXTS = ["a cat", "", "a very long text that does not fit"]


@pytest.fixture(params=[("t5", T5TextEmbedder), ("byt5", ByT5TextEmbedder)], ids=["t5", "byt5"])
def either(request):
    name, cls = request.param
    return name, cls, request.getfixturevalue(name)


def test_what_is_cut_off_is_told(t5):
    embedder = T5TextEmbedder(t5, max_length=4, load_weights=False)
    [long, short] = embedder.count_tokens(["a b c d e f", "a"])
    assert long.limit == short.limit == 3
    assert long.tokens > 3
    assert long.cut
    assert short.cut == ""
    with pytest.warns(UserWarning, match=rf"a text of {long.tokens} tokens, of which 3 are read; cut off: "):
        embedder(["a b c d e f"])


def test_it_keeps_the_contract_of_embedders(either):
    name, _, folder = either
    check_component("embedders", name, model=str(folder), max_length=12, inputs={"caption": ["a cat", "b"]})


def test_tokens_are_those_of_transformers(either):
    _, cls, folder = either
    rows = AutoTokenizer.from_pretrained(folder)(
        TEXTS, padding="max_length", max_length=12, truncation=True, return_tensors="pt"
    )
    model = T5EncoderModel.from_pretrained(folder)
    with torch.no_grad():
        unmasked = model(input_ids=rows["input_ids"], attention_mask=torch.ones(3, 12)).last_hidden_state
        masked = model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).last_hidden_state
        torch.testing.assert_close(cls(folder, 12)(TEXTS), unmasked)
        z = cls(folder, 12, mask_padding=True)(TEXTS)
        torch.testing.assert_close(cls(folder, 12, mask_padding="attention")(TEXTS), masked)
    torch.testing.assert_close(z, masked * rows["attention_mask"][:, :, None])
    assert not z[1, 3:].any()


def test_autocast_does_not_reach_it(t5):
    embedder = T5TextEmbedder(t5, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert embedder(TEXTS).dtype == torch.float32


def test_random_weights_need_no_file_of_weights(t5, tmp_path):
    (tmp_path / "config.json").write_bytes((t5 / "config.json").read_bytes())
    T5TextEmbedder(tmp_path, 12, load_weights=False)
    with pytest.raises(ValueError, match=rf"^{tmp_path} cannot be loaded: "):
        T5TextEmbedder(tmp_path, 12)


def test_what_is_no_list_of_texts_is_refused(t5):
    with pytest.raises(ValueError, match="a list of strings"):
        T5TextEmbedder(t5, 12).check(torch.ones(2))


def test_both_encoders_side_by_side(clip, t5):
    check_component(
        "embedders", "clip_t5", clip_model=str(clip), t5_model=str(t5), clip_max_length=16, t5_max_length=16,
        inputs={"caption": ["a cat", "b"]},
    )  # fmt: skip
    embedder = ClipT5Embedder(clip, t5, 16, 9)
    one, other = embedder(TEXTS)
    assert one.shape == (3, 16, 32)
    assert torch.equal(other, T5TextEmbedder(t5, 9)(TEXTS))
    assert {key.split(".")[0] for key in embedder.state_dict()} == {"clip_encoder", "t5_encoder"}
