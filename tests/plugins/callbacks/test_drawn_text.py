"""Text is drawn at the size that was asked for, and drawing never ends a run."""

from __future__ import annotations

import pytest
import torch

from sgm_plugins.callbacks.drawn_text import FONT, draw_conditioning, draw_text


def ink(picture: torch.Tensor) -> int:
    """How many pixels are dark."""
    return int((picture.mean(0) < 0).sum())


# --- text ----------------------------------------------------------------------------------------------------------


def test_text_pictures_have_the_height_and_width_in_the_order_asked_for():
    """B27: swapping them shows only on pictures that are not square."""
    assert draw_text(["a cat", "a dog"], 48, 96).shape == (2, 3, 48, 96)


def test_text_is_black_on_white():
    picture = draw_text(["cat"], 64, 64)[0]
    assert (picture.min(), picture.max()) == (-1, 1)
    assert picture[:, -1, -1].tolist() == [1, 1, 1]
    assert (draw_text([""], 64, 64) == 1).all()


def test_different_texts_are_different_pictures():
    one, two, again = draw_text(["7", "8", "7"], 64, 64)
    assert torch.equal(one, again)
    assert not torch.equal(one, two)


@pytest.mark.parametrize("size", [1, 4, 8, 16, 19])
def test_small_pictures_have_letters_too(size):
    """B27: where the font's size was a twentieth of the height, it was 0 below 20 pixels."""
    picture = draw_text(["7"], size, size)
    assert picture.shape == (1, 3, size, size)
    if size >= 8:
        assert ink(picture[0]) > 0


def test_letters_are_larger_where_there_is_room():
    """A quarter of the height at most: 'I' is as high as a capital, 0.73 of the font's size."""

    def height_of_letters(text: str) -> int:
        return int((draw_text([text], 128, 256)[0].mean(0) < 0).any(1).nonzero().diff(dim=0).eq(1).sum()) + 1

    assert abs(height_of_letters("I") - 0.73 * 32) <= 2
    assert height_of_letters("I") > height_of_letters("I" + " I" * 60) / 4


def test_all_of_a_long_text_is_shown_if_it_fits():
    """The last word makes a difference, however long the text is."""
    text = "a photograph of an astronaut riding a horse on the moon, " * 4
    one, two = draw_text([text + "day", text + "cat"], 256, 256)
    assert not torch.equal(one, two)


def test_text_stays_inside():
    """Nothing at the right edge: it was wrapped by what letters measure, not by how many they are."""
    for text in ("W" * 400, "WWWW " * 80):
        picture = draw_text([text], 256, 128)[0]
        assert ink(picture[:, :, -1:]) == 0
        assert ink(picture) > 1000


def test_what_does_not_fit_ends_in_an_ellipsis():
    cut, longer = draw_text(["word " * 100, "word " * 200], 32, 64)
    assert torch.equal(cut, longer)
    assert ink(cut) > 0


def test_a_character_that_the_font_lacks_is_escaped():
    missing = "\u65e5"
    picture, escape, box = draw_text([missing, r"\u65e5", "\uffff"], 64, 256)
    assert torch.equal(picture, escape)
    assert torch.equal(box, draw_text([r"\uffff"], 64, 256)[0])


@pytest.mark.parametrize(
    ("character", "escape"), [("\0", r"\x00"), ("\ud800", r"\ud800"), ("\U0001f9ff", r"\U0001f9ff"), ("\t", " ")]
)
def test_nothing_in_a_text_ends_the_run(character, escape):
    one, two = draw_text([f"a{character}b", f"a{escape}b"], 64, 256)
    assert torch.equal(one, two)


def test_characters_that_the_font_has_are_drawn_as_they_are():
    for character in "äéßΩжא✓€":
        drawn, escaped = draw_text([character, character.encode("unicode_escape").decode()], 64, 256)
        assert ink(drawn) > 0
        assert not torch.equal(drawn, escaped)


def test_lines_are_kept():
    assert torch.equal(*draw_text(["a\nb", "a \n b"], 64, 64))
    assert not torch.equal(*draw_text(["a\nb", "a b"], 64, 64))
    assert not torch.equal(*draw_text(["a\n\nb", "a\nb"], 64, 64))


def test_no_texts_are_no_pictures():
    assert draw_text([], 16, 24).shape == (0, 3, 16, 24)


def test_a_huge_text_is_fast_enough():
    assert draw_text(["x" * 2_000_000], 64, 64).shape == (1, 3, 64, 64)


def test_the_font_and_its_licence_come_with_the_package(tmp_path, monkeypatch):
    """B28: it is found from any working directory."""
    monkeypatch.chdir(tmp_path)
    assert FONT.is_absolute()
    assert FONT.is_file()
    assert "Bitstream" in FONT.with_name("LICENSE_DEJAVU").read_text(encoding="utf-8")


# --- conditionings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        (torch.tensor([3, 10]), ["3", "10"]),
        (torch.tensor([True, False]), ["True", "False"]),
        (torch.tensor([0.123456, 6.0, float("nan"), 1e-9]), ["0.123", "6", "nan", "1e-09"]),
        (torch.tensor([[1024, 768], [0, 12]]), ["1024x768", "0x12"]),
        (torch.tensor([[1024.0, 0.5]], dtype=torch.bfloat16), ["1024x0.5"]),
        (torch.tensor(7), ["7"]),
        (["a cat", "a dog"], ["a cat", "a dog"]),
        ([5, 2.5, (640, 480)], ["5", "2.5", "640x480"]),
        (("a", "b"), ["a", "b"]),
        ([torch.tensor([1, 2]), torch.zeros(3, 4)], ["1x2", "3x4"]),
        (torch.zeros(2, 77, 768), ["77x768 float32"] * 2),
        (torch.zeros(2, 1280), ["1280 float32"] * 2),
        (torch.zeros(1, 4, 8, 8), ["4x8x8 float32"]),
        (14, ["14"]),
        ({"a": 1}, ["dict"]),
        ([None, object()], ["NoneType", "object"]),
        (torch.zeros(2, dtype=torch.complex64), ["complex", "complex"]),
    ],
)
def test_a_conditioning_is_drawn_as_what_it_says(value, texts):
    """B27: whatever a batch holds: a picture of it must not end the training."""
    assert torch.equal(draw_conditioning(value, 32, 128), draw_text(texts, 32, 128))


def test_an_image_conditioning_is_shown_as_it_is():
    image = torch.rand(2, 3, 8, 8) * 2 - 1
    assert draw_conditioning(image, 32, 32) is image


@pytest.mark.parametrize("value", [None, [], torch.zeros(0), torch.zeros(0, 3, 4)])
def test_nothing_to_draw_is_none(value):
    assert draw_conditioning(value, 32, 32) is None
