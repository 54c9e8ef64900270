import pytest
import torch

from sgm_core.testing import check_component

transformers = pytest.importorskip("transformers")

from sgm_plugins.embedders.token_mask import TokenMask  # noqa: E402

TEXTS = ["a cat", "", "a very long text that does not fit"]


def test_it_keeps_the_contract_of_embedders(t5):
    check_component("embedders", "token_mask", model=str(t5), max_length=12, inputs={"caption": ["a cat", "b"]})


@pytest.mark.parametrize("padding", [0, 1, 3])
def test_it_marks_what_the_tokenizer_does_and_so_much_padding(t5, padding):
    tokenizer = transformers.AutoTokenizer.from_pretrained(t5)
    found = TokenMask(t5, 9, padding)(TEXTS)
    assert found.dtype == torch.float32
    for row, text in zip(found, TEXTS, strict=True):
        tokens = min(len(tokenizer(text)["input_ids"]) + padding, 9)
        assert row.tolist() == [1.0] * tokens + [0.0] * (9 - tokens)
    assert TokenMask(t5, 9).count_tokens(["a"])[0].limit == 8


def test_what_is_no_list_of_texts_is_refused(t5):
    with pytest.raises(ValueError, match="a list of strings"):
        TokenMask(t5)("a cat")
