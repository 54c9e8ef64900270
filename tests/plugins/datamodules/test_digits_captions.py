"""Every image has a caption that names it, in a wording that depends on (seed, epoch, image) alone."""

from __future__ import annotations

import re
from collections import Counter

import pytest
import torch

from sgm_plugins.datamodules.digits import Digits
from sgm_plugins.datamodules.digits_captions import HELD_OUT, WORDINGS, WORDS, DigitsCaptions, caption


def epochs(data: DigitsCaptions, n: int = 1) -> list[dict[bytes, str]]:
    """The caption of each image, by epoch."""
    loader = data.train_dataloader()
    return [
        {
            image.numpy().tobytes(): text
            for batch in loader
            for image, text in zip(batch["image"], batch["caption"], strict=True)
        }
        for _ in range(n)
    ]


def test_the_images_labels_and_parts_are_those_of_digits():
    for name in ("train_dataloader", "val_dataloader"):
        plain, captioned = (getattr(kind(batch_size=100, seed=3), name)() for kind in (Digits, DigitsCaptions))
        for expected, batch in zip(plain, captioned, strict=True):
            assert set(batch) == {"image", "cls", "caption"}
            assert torch.equal(batch["image"], expected["image"])
            assert torch.equal(batch["cls"], expected["cls"])
            assert len(batch["caption"]) == len(batch["cls"])


def test_each_caption_is_that_of_its_label_in_one_of_the_wordings():
    for loader, wordings in (
        (DigitsCaptions().train_dataloader(), WORDINGS),
        (DigitsCaptions().val_dataloader(), HELD_OUT),
    ):
        seen = set()
        for batch in loader:
            for label, text in zip(batch["cls"].tolist(), batch["caption"], strict=True):
                seen.update(wording for wording in wordings if caption(wording, label) == text)
                assert any(caption(wording, label) == text for wording in wordings)
        assert seen == set(wordings)


def test_a_caption_names_the_digit_by_word_or_by_number():
    assert [caption("the {digit}, {word}", digit) for digit in (0, 7)] == ["the 0, zero", "the 7, seven"]
    assert len(set(WORDS)) == 10


def test_training_never_shows_a_wording_that_is_held_out():
    held_out = {caption(wording, digit) for wording in HELD_OUT for digit in range(10)}
    shown = {text for epoch in epochs(DigitsCaptions(batch_size=1), 3) for text in epoch.values()}
    assert held_out.isdisjoint(shown)
    assert len(shown) == 10 * len(WORDINGS)


def test_the_wordings_are_drawn_evenly():
    (texts,) = epochs(DigitsCaptions(batch_size=1))
    counts = Counter("digit" in re.findall(r"\w+", text) for text in texts.values())
    assert counts[True] / len(texts) == pytest.approx(1 / len(WORDINGS), abs=0.03)  # "the digit 7"; 3 sigma


def test_an_image_has_other_captions_in_other_epochs_and_the_same_again_in_another_run():
    first, second = epochs(DigitsCaptions(batch_size=1), 2)
    assert [first, second] == epochs(DigitsCaptions(batch_size=1), 2)
    same = sum(first[image] == second[image] for image in first) / len(first)
    assert same == pytest.approx(1 / len(WORDINGS), abs=0.03)


def test_the_caption_depends_on_the_image_not_on_the_batch_that_it_is_in():
    assert epochs(DigitsCaptions(batch_size=1)) == epochs(DigitsCaptions(batch_size=2))


def test_the_seed_decides_the_captions():
    assert epochs(DigitsCaptions(batch_size=1, seed=0)) != epochs(DigitsCaptions(batch_size=1, seed=1))


def test_a_resumed_run_continues_with_the_captions_that_come_next():
    loader = DigitsCaptions(batch_size=200).train_dataloader()
    list(loader)
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    resumed = DigitsCaptions(batch_size=200).train_dataloader()
    resumed.load_state_dict(loader.state_dict())
    rest, again = ([batch["caption"] for batch in what] for what in (batches, resumed))
    assert len(rest) == 4
    assert rest == again


def test_workers_give_the_same_captions():
    one, two = (DigitsCaptions(num_workers=n).train_dataloader() for n in (0, 1))
    for _ in range(2):
        assert [batch["caption"] for batch in one] == [batch["caption"] for batch in two]
    two.close()


def test_validation_captions_never_change():
    data = DigitsCaptions(held_out=("{word}!", "{digit}!"))
    loader = data.val_dataloader()
    first, second = ([text for batch in loader for text in batch["caption"]] for _ in range(2))
    assert first == second
    assert any(text[0].isdigit() for text in first)
    assert not all(text[0].isdigit() for text in first)


def test_own_wordings_and_none_held_out():
    data = DigitsCaptions(wordings=("{word}",), held_out=(), train_fraction=0.5)
    for loader in (data.train_dataloader(), data.val_dataloader()):
        for batch in loader:
            assert batch["caption"] == [WORDS[label] for label in batch["cls"].tolist()]
    assert len(data.parts[1]) == 899


@pytest.mark.parametrize(
    ("wordings", "held_out", "said"),
    [
        ([], [], "wordings is empty"),
        (["a digit"], [], "wording 'a digit' must name the digit"),
        (["{word"], [], "must name the digit, as {word} or {digit}, and have no other braces"),
        (["{word} {size}"], [], "no other braces"),
        (["{word}"], ["{number}"], "wording '{number}' must name"),
        (["{word}"], ["{word}"], "in wordings and in held_out"),
    ],
)
def test_wordings_that_can_not_be_used_are_refused(wordings, held_out, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        DigitsCaptions(wordings=tuple(wordings), held_out=tuple(held_out))


def test_a_batch_larger_than_the_training_part_is_an_error():
    with pytest.raises(ValueError, match=r"batch_size is 1500.* at most 1438"):
        DigitsCaptions(batch_size=1500).train_dataloader()
