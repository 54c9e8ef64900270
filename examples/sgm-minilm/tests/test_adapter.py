"""The adapter trains, and what it stands on does not."""

import pytest
import torch
from sgm_minilm.adapter import MiniLMAdapter

from sgm_core.testing import check_component

TEXTS = {"caption": ["a handwritten seven", "", "the digit 7"]}


@pytest.mark.parametrize("depth", [0, 1])
def test_it_keeps_the_contract_of_embedders(depth):
    check_component("embedders", MiniLMAdapter, inputs=TEXTS, width=32, depth=depth, max_length=16)


def test_each_size_is_what_it_says():
    adapter = MiniLMAdapter(width=48, depth=2, heads=3, max_length=8, memo=5)
    assert adapter(["seven"]).shape == (1, 8, 48)
    assert [layer.self_attn.num_heads for layer in adapter.layers] == [3, 3]
    assert adapter.encoder.memo == 5


def test_training_changes_the_layers_on_top_and_no_bit_of_the_encoder():
    torch.manual_seed(0)
    adapter = MiniLMAdapter(width=32, max_length=8).train()
    before = {name: value.clone() for name, value in adapter.named_parameters()}
    trained = [parameter for parameter in adapter.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (adapter(["seven", "eight"]) - 1).square().mean().backward()
        optimizer.step()
    changed = {name for name, value in adapter.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if not name.startswith("encoder.")}
    assert not adapter.encoder.bert.training


def test_it_learns_to_tell_texts_apart_by_what_they_say():
    """A linear map of frozen tokens fits two classes in seen wordings and generalises to an unseen one."""
    torch.manual_seed(0)
    adapter = MiniLMAdapter(width=1, depth=0, max_length=8)
    wordings = ["a handwritten {}", "number {} written by hand", "{}"]
    texts = [wording.format(word) for word in ("seven", "two") for wording in wordings]
    target = torch.tensor([1.0] * 3 + [-1.0] * 3)
    optimizer = torch.optim.Adam(adapter.project.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        (adapter(texts).sum(dim=(1, 2)) - target).square().mean().backward()
        optimizer.step()
    seven, two = adapter(["a picture of a seven", "a picture of a two"]).sum(dim=(1, 2))
    assert seven > two


def test_padding_is_zero_and_takes_no_part():
    torch.manual_seed(0)
    short, long = (MiniLMAdapter(width=32, max_length=length) for length in (6, 12))
    long.load_state_dict(short.state_dict())
    tokens = long(["seven"])[0]  # [CLS] seven [SEP]
    assert not tokens[3:].any()
    torch.testing.assert_close(tokens[:3], short(["seven"])[0, :3], rtol=1e-4, atol=1e-5)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="width 30 cannot be split into 4 heads"):
        MiniLMAdapter(width=30)
    assert MiniLMAdapter(width=30, depth=0)(["seven"]).shape == (1, 32, 30)


def test_anything_but_a_list_of_strings_is_refused():
    with pytest.raises(ValueError, match="reads a list of strings"):
        MiniLMAdapter(width=8).check(torch.tensor([3]))
