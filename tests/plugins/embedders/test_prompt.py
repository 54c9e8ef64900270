import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgm_plugins.embedders.prompt import parse_prompt


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a red car", [("a red car", 1.0)]),
        ("a (red:1.3) car", [("a ", 1.0), ("red", 1.3), (" car", 1.0)]),
        ("(red)", [("red", 1.1)]),
        ("((red))", [("red", pytest.approx(1.21))]),
        ("[red]", [("red", pytest.approx(1 / 1.1))]),
        ("(a (b:2) c:0.5)", [("a ", 0.5), ("b", 1.0), (" c", 0.5)]),
        (r"\(red\)", [("(red)", 1.0)]),
        ("a) b", [("a) b", 1.0)]),
        ("(a b", [("(a b", 1.0)]),
        ("(a] b", [("(a] b", 1.0)]),
        ("at 10:30, a (clock: 1.5)", [("at 10:30, a ", 1.0), ("clock", 1.5)]),
        ("(cat:-1)", [("cat", -1.0)]),
        ("(cat:1.)", [("cat", 1.0)]),
        ("(cat:.5)", [("cat", 0.5)]),
        ("(cat:+1.2)", [("cat", 1.2)]),
        ("(cat:-.5)", [("cat", -0.5)]),
        ("(cat:0)", [("cat", 0.0)]),
        ("(cat:1e-1)", [("cat", 0.1)]),
        ("( cat : -1. )", [(" cat ", -1.0)]),
        ("(a (b:-2) c:0.5)", [("a ", 0.5), ("b", -1.0), (" c", 0.5)]),
        ("((cat:-1))", [("cat", pytest.approx(-1.1))]),
        ("[(cat:-1.1)]", [("cat", pytest.approx(-1.0))]),
        (r"(photo \(medium\):-1.0)", [("photo (medium)", -1.0)]),
        (r"(a\\:2)", [("a\\", 2.0)]),
        ("(14:30:1.2)", [("14:30", 1.2)]),
        ("(a:b)", [("a:b", 1.1)]),
        *((f"(cat:{number})", [(f"cat:{number}", 1.1)]) for number in ("1.2.3", "--1", "+", ".", "1,5", "nan", "inf")),
        ("a :1.2) b", [("a :1.2) b", 1.0)]),
        ("(:1.2)", []),
        ("", []),
    ],
)
def test_pieces_and_their_weights(text, pieces):
    assert parse_prompt(text) == pieces


@pytest.mark.parametrize("text", ["(cat:1e999)", "(cat:-1e999)", "((cat:1e200):1e200)", "(cat:" + "9" * 400 + ")"])
def test_a_weight_beyond_numbers_is_refused(text):
    with pytest.raises(ValueError, match=r"weight of 'cat' in the prompt is -?inf"):
        parse_prompt(text)


@given(st.floats(-100, 100), st.sampled_from(["{}", "{:+}", "{:.1f}", "{:+.0f}.", "{:e}"]))
def test_what_python_reads_as_a_number_is_the_weight(weight, form):
    number = form.format(weight)
    assert parse_prompt(f"a (cat:{number})") == [("a ", 1.0), ("cat", float(number))] or float(number) == 1


@given(st.text("ab ()[]:\\.12-+", max_size=30))
def test_any_text_is_a_prompt_and_loses_nothing_but_the_notation(text):
    pieces = parse_prompt(text)
    assert all(words and math.isfinite(weight) for words, weight in pieces)
    letters = [c for c in text if c in "ab "]
    assert [c for words, _ in pieces for c in words if c in "ab "] == letters or ":" in text  # spaces go with a weight


@given(st.text("abc .,\n'é", max_size=30))
def test_a_text_without_notation_is_one_piece(text):
    assert parse_prompt(text) == ([(text, 1.0)] if text else [])


@given(st.text("ab()[]\\:1.", max_size=20))
def test_what_is_escaped_is_text(text):
    escaped = "".join(f"\\{c}" if c in "()[]\\" else c for c in text)
    assert parse_prompt(escaped) == ([(text, 1.0)] if text else [])
