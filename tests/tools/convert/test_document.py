"""What is written is read back as the same, whatever the values and the comments."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sgm_core.config.interpolation import interpolate
from sgm_core.config.tree import Problems, parse, plain
from sgm_core.config.yaml import scalar_yaml
from sgm_plugins.tools.convert.document import Block, Item, write
from sgm_plugins.tools.convert.legacy import Comments

ODD = ["yes", "1", "1e3", "~", "a: b", "# x", "a #b", "[", "}", "a, b", "${a}", "- a", "'", '"', "a\nb", "\t", "???"]
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12) | st.sampled_from(ODD)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.floats(allow_nan=False), TEXTS)
COMMENTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=150).map(lambda text: text.strip())
KEYS = st.text("abcdefghij_", min_size=1, max_size=8)


def items(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Item]:
    return st.builds(Item, values, st.lists(COMMENTS, max_size=2), COMMENTS)


def blocks(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Block]:
    return st.builds(
        Block, st.dictionaries(KEYS, items(values), min_size=1, max_size=4), st.lists(COMMENTS, max_size=2)
    )


def around(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    plain_mappings = st.dictionaries(KEYS, SCALARS, max_size=3)
    return st.lists(inner, max_size=4) | blocks(inner) | plain_mappings | st.lists(blocks(inner), max_size=3)


VALUES = st.recursive(SCALARS, around, max_leaves=12)


def read(text: str) -> Any:
    """As `load_config` reads it, interpolations included."""
    tree, problems = parse(text, "new.yaml"), Problems()
    interpolate(tree, problems)
    assert not problems.found
    return plain(tree)


def unnamed(value: Any) -> Any:
    """A component without arguments is written as its name."""
    if isinstance(value, dict):
        if list(value) == ["use"]:
            return unnamed(value["use"])
        return {key: unnamed(child) for key, child in value.items()}
    return [unnamed(child) for child in value] if isinstance(value, list) else value


@settings(max_examples=200)
@given(blocks(VALUES))
@example(Block({"a": Item(1, above=["x\ufffey"])}))
@example(Block({"a": Item(1, beside="x\uffff")}, below=["\ufffe"]))
@example(Block({"a": Item(1, above=["x\nb: 2", "y\u2028c: 3"], beside="z\x85d: 4\x00")}))
def test_a_document_is_read_back(block):
    assert unnamed(read(write(block))) == unnamed(block.plain())


@settings(max_examples=100)
@given(SCALARS)
def test_a_scalar_is_read_back_alone_and_inside_braces(value):
    text = scalar_yaml(value)
    assert "\n" not in text
    assert read(f"a: {text}\nb: {{c: [{text}, 1]}}\n") == {"a": value, "b": {"c": [value, 1]}}


def test_short_mappings_stand_on_one_line_and_long_ones_do_not():
    short = Block({"use": Item("edm"), "sigma_data": Item(0.5)})
    long = Block({f"parameter_{i}": Item("x" * 12) for i in range(8)})
    commented = Block({"use": Item("edm", beside="why"), "sigma_data": Item(0.5)})
    assert write(Block({"a": Item(short)})) == "a: {use: edm, sigma_data: 0.5}\n"
    assert write(Block({"a": Item(Block({"use": Item("edm")}))})) == "a: edm\n"
    assert write(Block({"a": Item(long)})).startswith("a:\n  parameter_0: xxxx")
    assert write(Block({"a": Item(commented)})) == "a:\n  use: edm  # why\n  sigma_data: 0.5\n"
    assert write(Block({"a": Item([short, commented])})) == (
        "a:\n  - {use: edm, sigma_data: 0.5}\n  - use: edm  # why\n    sigma_data: 0.5\n"
    )


def test_a_comment_that_is_too_long_for_its_line_goes_above():
    text = write(Block({"a": Item(1, beside="word " * 40)}))
    lines = text.splitlines()
    assert lines[-1] == "a: 1"
    assert len(lines) > 2
    assert all(len(line) <= 110 for line in lines)


OLD = """\
# first

# second
a: 1  # beside a
b:   # beside b
  # above c
  c: '# no comment'
  d: "a # no comment"
  e: |
    # no comment
    text # no comment
  # above f
  f: http://x/#no-comment
g: [1, # inside
  2]
# last
"""


def test_comments_are_found_with_the_lines_they_speak_of(tmp_path):
    file = tmp_path / "old.yaml"
    file.write_text(OLD)
    comments = Comments()
    comments.read(file)
    found = {line: text for (_, line), text in comments.beside.items()}
    assert found == {4: "beside a", 5: "beside b", 14: "inside"}
    above = {line: texts for (_, line), texts in comments.above.items()}
    assert above == {4: ["first", "second"], 7: ["above c"], 13: ["above f"], 16: ["last"]}


@pytest.mark.parametrize("text", ["a: 1\r\n# x\r\nb: 2  # y\r\n", "\ufeffa: 1 # x\n", "a: 'it''s' # x\n", "a: é # x\n"])
def test_comments_of_odd_texts(tmp_path, text):
    file = tmp_path / "old.yaml"
    file.write_bytes(text.encode())
    comments = Comments()
    comments.read(file)
    assert "x" in [*comments.beside.values(), *(t for texts in comments.above.values() for t in texts)]
