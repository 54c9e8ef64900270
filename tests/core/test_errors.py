import unicodedata

from hypothesis import example, given
from hypothesis import strategies as st

from sgm_core.cli.app import main
from sgm_core.errors import printable, shown


@given(st.text(max_size=600))
@example("\x1b]0;title\x07\x1b[2J")
@example("a\u202eb\u2066c\u200f")
@example("\ud800\x00\r\n\u2028")
def test_a_text_of_others_is_one_bounded_line_without_controls(text: str):
    line = printable(text, 100)
    assert all(unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in line)
    assert len(line) <= 100 * len(r"\U0001f600")
    assert (line == text) or not text.isprintable() or len(text) > 100
    assert printable(line, len(line)) == line


def test_lines_of_a_message_stay_lines():
    assert shown("a\nb\x1b[2J\n") == "a\nb\\x1b[2J\n"


def test_a_name_with_controls_reaches_the_terminal_as_escapes(capsys):
    assert main(["inspect", "\x1b[2J\u202e.safetensors"]) == 1
    err = capsys.readouterr().err
    assert err == "\\x1b[2J\\u202e.safetensors: no such file\n"
