"""A file of prompts: a line is a prompt, in any encoding that says what it is."""

from __future__ import annotations

import pytest

from sgm_core.files import BadFileError
from sgm_plugins.tools.sampling.command import lines_of


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_each_line_is_a_prompt_and_only_line_ends_divide(tmp_path, encoding):
    file = tmp_path / "prompts.txt"
    file.write_bytes("a fox\r\n\r\none prompt\u2028still\x0cit\u0085\n  狐\ran owl".encode(encoding))
    assert lines_of(file) == ["a fox", "one prompt\u2028still\x0cit", "狐", "an owl"]


def test_another_encoding_is_an_error_with_the_file(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_bytes("a fox\n狐\n".encode("shift_jis"))
    with pytest.raises(BadFileError, match=r"prompts\.txt:2:1: not a UTF-8 text file: byte 0x8c"):
        lines_of(file)
