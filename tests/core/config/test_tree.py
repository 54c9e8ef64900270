import json
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sgm_core.config.tree import (
    INVALID,
    MAX_DEPTH,
    ConfigError,
    Node,
    Origin,
    Problems,
    from_plain,
    leaves,
    parse,
    plain,
    read_file,
    split_path,
)


def read(text: str) -> Any:
    return plain(parse(text, "f.yaml"))


def error(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text, "f.yaml")
    return str(caught.value)


# --- where values stand --------------------------------------------------------------------------------------------


def test_every_value_and_key_keeps_its_line_and_column():
    text = """\
# a comment
a: 1
b:
  c: [x, {d: 2}]
  "e":   null
f:
g:
  - h: |
      text
  - y
"""
    tree = parse(text, "f.yaml")
    lines = text.splitlines()
    assert {path: str(node.origin) for path, node in leaves(tree)} == {
        "a": "f.yaml:2:4",
        "b.c[0]": "f.yaml:4:7",
        "b.c[1].d": "f.yaml:4:14",
        "b.e": "f.yaml:5:10",
        "f": "f.yaml:6:3",
        "g[0].h": "f.yaml:8:8",
        "g[1]": "f.yaml:10:5",
    }
    assert lines[3][13] == "2"
    assert tree.value["b"].key_origin == Origin("f.yaml", 3, 1)
    assert tree.value["b"].value["c"].origin == Origin("f.yaml", 4, 6)
    assert tree.value["b"].value["c"].value[1].value["d"].where == Origin("f.yaml", 4, 11)


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_columns_count_characters_whatever_the_line_ends_and_byte_order_mark(start, end):
    tree = parse(f"{start}größe: 1{end}ö: {{ü: x}}{end}", "f.yaml")
    assert {path: str(node.origin) for path, node in leaves(tree)} == {"größe": "f.yaml:1:8", "ö.ü": "f.yaml:2:8"}


def test_a_text_without_lines_of_its_own_is_named_by_its_source():
    tree = parse("{a: 1}", "override 'x={a: 1}'", located=False)
    assert str(tree.value["a"].origin) == "override 'x={a: 1}'"


# --- scalars -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1e3", 1000.0),
        ("1E+3", 1000.0),
        ("1.0e-05", 1e-05),
        ("-.5", -0.5),
        ("1.", 1.0),
        (".inf", math.inf),
        ("-.Inf", -math.inf),
        ("12", 12),
        ("-0", 0),
        ("+3", 3),
        ("012", 12),
        ("0x1F", 31),
        ("0o17", 15),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("!!str 3", "3"),
        ("! 3", "3"),
        ("!!int '3'", 3),
        ("!!float 3", 3.0),
    ],
)
def test_scalars_that_are_not_texts(text, value):
    read_back = read(f"a: {text}")["a"]
    assert read_back == value
    assert type(read_back) is type(value)


NO_NUMBERS = (
    "yes no on Off y 1:30 2020-01-01 1_000 1e e3 . 0x 0b1 nan inf None 1.2.3 --1 os.system ??? = +.nan 1,5 0X1F"
)


@pytest.mark.parametrize("text", NO_NUMBERS.split())
def test_what_yaml_1_1_or_python_would_take_for_something_else_is_a_text(text):
    assert read(f"a: {text}")["a"] == text


@pytest.mark.parametrize("text", ["1", "true", "null", "1e3", "~", ""])
def test_quoted_is_a_text(text):
    assert read(f"a: '{text}'\nb: \"{text}\"") == {"a": text, "b": text}


def test_nan():
    assert math.isnan(read("a: .nan")["a"])


@pytest.mark.parametrize("tag", ["!!int x", "!!bool yes", "!!float 1:30", "!!null x"])
def test_a_tag_that_does_not_fit_is_refused(tag):
    name, text = tag.split()
    assert error(f"a: {tag}") == f"f.yaml:1:4 a: '{text}' is not of the type {name}"


# --- nothing is run ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.system ['touch pwned']",
        "!!python/object/new:os.system [echo]",
        "!!python/object:os.system {}",
        "!!python/name:os.system",
        "!!python/module:os",
        "!!python/tuple [1, 2]",
        "!!set {a}",
        "!!binary aGk=",
        "!!timestamp 2020-01-01",
        "!own {a: 1}",
        "!!str [a]",
        "!!map [a]",
        "!<tag:example.org,2000:x> 3",
    ],
)
def test_tags_that_are_more_than_plain_data_are_refused(value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert error(f"a:\n  b: {value}").startswith("f.yaml:2:6 a.b: the tag ")
    assert "is not allowed" in error(f"b: {value}")
    assert not list(tmp_path.iterdir())


def test_what_is_wrong_in_one_place_does_not_hide_another():
    problems = Problems()
    tree = parse("a: !x 1\nb: 1\nb: 2\nc: {? [1] : 2}\nd: 4\n<<: 3\n", "f.yaml", problems=problems)
    assert [str(problem) for problem in problems.found] == [
        "f.yaml:1:4 a: the tag !x is not allowed: a config holds plain values only",
        "f.yaml:3:1 b: this key is written twice, first in line 2",
        "f.yaml:4:7 c: a key must be a plain value; quote a text with brackets",
        "f.yaml:6:5: '<<' takes a mapping or a list of mappings, e.g. <<: *anchor",
    ]
    assert plain(tree) == {"a": INVALID, "b": 1, "c": {}, "d": 4}


# --- keys and merges -----------------------------------------------------------------------------------------------


def test_every_repetition_of_a_key_is_reported_in_flow_style_too():
    assert error("a: {b: 1, c: 2, b: 3, b: 4}") == (
        "f.yaml:1:17 a.b: this key is written twice, first in line 1\n"
        "f.yaml:1:23 a.b: this key is written twice, first in line 1"
    )


def test_keys_that_are_equal_in_another_spelling_are_the_same_key():
    assert "written twice" in error("1: a\n1.0: b")


def test_a_merged_mapping_may_be_overridden_before_and_after_and_used_again():
    text = """
base: &base {a: 1, b: 2}
over: &over
  a: 3
  <<: *base
again: *over
twice: {<<: [*over, *base], c: 4}
"""
    config = read(text)
    assert config["over"] == config["again"] == {"a": 3, "b": 2}
    assert config["twice"] == {"a": 3, "b": 2, "c": 4}


def test_a_quoted_merge_sign_is_a_key():
    assert read("'<<': 1") == {"<<": 1}


def test_aliases_are_copies():
    tree = parse("a: &x {b: 1}\nc: *x", "f.yaml")
    tree.value["a"].value["b"].value = 2
    assert plain(tree) == {"a": {"b": 2}, "c": {"b": 1}}


def test_an_anchor_may_be_used_again_for_another_value():
    assert read("a: &x 1\nb: *x\nc: &x 2\nd: *x") == {"a": 1, "b": 1, "c": 2, "d": 2}


# --- bombs ---------------------------------------------------------------------------------------------------------


def bomb(item: str) -> str:
    return "a: &a [l, l, l, l, l, l, l, l, l]\n" + "".join(
        f"{new}: &{new} {item.format(','.join(['*' + old] * 9))}\n"
        for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )


@pytest.mark.parametrize("item", ["[{}]", "{{k: [{}]}}", "{{? x : [{}]}}"])
def test_an_alias_bomb_is_refused(item):
    """Of 10^9 values, which nothing could hold: it is refused before it is unfolded."""
    assert "aliases unfold this file into more than 100000 values" in error(bomb(item))


def test_a_bomb_of_merges_is_read():
    """Of 10^11 merges, which nothing could do one by one."""
    keys = ", ".join(f"k{i}: {i}" for i in range(100))
    levels = "".join(
        f"{new}: &{new} {{<<: [{','.join(['*' + old] * 9)}], {new}: 1}}\n"
        for old, new in zip("abcdefghijk", "bcdefghijkl", strict=True)
    )
    assert len(read(f"a: &a {{{keys}}}\n{levels}")["l"]) == 111


@pytest.mark.parametrize("text", ["a: &x [*x]", "a: &x {b: {c: *x}}", "&x [*x]", "a: &x {<<: *x}", "a: &x {*x : 1}"])
def test_a_value_that_contains_itself_is_refused(text):
    assert "this value contains itself, through an alias" in error(text)


@pytest.mark.parametrize(
    "text",
    ["[" * 200_000, "{a: " * 100_000, "- " * 50_000, "".join(" " * i + "a:\n" for i in range(1500))],
)
def test_brackets_in_brackets_do_not_exhaust_the_stack(text):
    assert error(text).endswith(f"nested more than {MAX_DEPTH} deep")


def test_aliases_can_not_nest_deeper_than_brackets():
    nested = "a0: &a0 " + "[" * 60 + "1" + "]" * 60
    text = nested + "".join(f"\na{i + 1}: &a{i + 1} {'[' * 60}*a{i}{']' * 60}" for i in range(40))
    assert error(text) == f"f.yaml:2:69: nested more than {MAX_DEPTH} deep"


def test_a_number_of_thousands_of_digits_is_refused():
    assert error("a: " + "1" * 5000).startswith("f.yaml:1:4 a: ")


# --- what is not YAML ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "a: 1\n\tb: 2\n",
            "f.yaml:2:1: not valid YAML: found a tab character that violates indentation (this is a tab: ",
        ),
        ("a:\n\tb: 2\n", "f.yaml:2:1: not valid YAML: found character that cannot start any token (this is a tab: "),
        ("a: b: c", "f.yaml:1:5: not valid YAML: mapping values are not allowed in this context (quote a text that"),
        ("a: 1\n b: 2\n", "f.yaml:2:3: not valid YAML: mapping values are not allowed in this context (quote a"),
        ("a: 1\nb 2\nc: 3\n", "f.yaml:2:1: not valid YAML: could not find expected ':' after this key"),
        (
            "x: 1\na: [1,\n\nb: 2\n",
            "f.yaml:5:1: not valid YAML: did not find expected ',' or ']', while parsing a flow",
        ),
        ("a: {b: ${c}}", "f.yaml:1:9: not valid YAML: did not find expected ',' or '}', while parsing a flow mapping"),
        ("a: 'x\nb: 1\n", "f.yaml:3:1: not valid YAML: found unexpected end of stream, while scanning a quoted scalar"),
        ("a: @x", "f.yaml:1:4: not valid YAML: found character that cannot start any token (quote a text that starts"),
        ("a: *x", "f.yaml:1:4 a: no anchor '&x' above this; quote a text that starts with '*'"),
        ("a: 1\n---\nb: 2\n", "f.yaml:2:1: a second YAML document starts here"),
        ("a: 1\n...\n--- b\n", "f.yaml:3:1: a second YAML document starts here"),
        ("a: 1\nb: x\x00y", "f.yaml:2:5: not valid YAML: the character '\\x00' can only stand in double quotes"),
        ("a: \udcff", "f.yaml:1:4: not valid YAML: the character '\\udcff' can only stand in double quotes"),
        (
            "- a\nb: 1",
            "f.yaml:2:1: not valid YAML: did not find expected '-' indicator, while parsing a block collection",
        ),
    ],
)
def test_syntax_errors_say_where_and_what_to_do(text, says):
    assert error(text).startswith(says)
    assert "\n" not in error(text)


def test_a_reference_in_flow_style_without_quotes_is_explained():
    assert error("a: {b: ${c}}").endswith("(inside braces or brackets, quote '${key.path}' and '???')")
    assert error("a: [1, ???]").endswith("(inside braces or brackets, quote '${key.path}' and '???')")
    assert error("a: {b: [1}").endswith("line 1")


def test_a_syntax_error_does_not_hide_what_was_found_before():
    assert [line.split(" ")[0] for line in error("a: 1\na: !x 2\nb: [").splitlines()] == [
        "f.yaml:2:1",
        "f.yaml:2:4",
        "f.yaml:4:1:",
    ]


def test_one_document_with_its_marks_is_fine():
    assert read("%YAML 1.1\n---\na: 1\n...\n") == {"a": 1}


# --- files ---------------------------------------------------------------------------------------------------------


def file_error(path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_file(path)
    return str(caught.value)


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n", "---\n", "null\n"])
def test_an_empty_file_is_an_empty_mapping(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text)
    assert read_file(tmp_path / "a.yaml").value == {}


@pytest.mark.parametrize("text", ["- a\n", "[1]\n", "just words\n", "3\n"])
def test_the_top_level_is_a_mapping(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text)
    assert file_error(tmp_path / "a.yaml").startswith(f"{tmp_path}/a.yaml:1:1: a config is a mapping of keys to values")


def test_a_file_that_is_not_utf_8_says_where(tmp_path):
    (tmp_path / "a.yaml").write_bytes("a: 1\nö: caf".encode() + b"\xe9\n")
    assert file_error(tmp_path / "a.yaml").startswith(f"{tmp_path}/a.yaml:2:7: not a UTF-8 text file: byte 0xe9")


def test_a_file_that_does_not_exist_gets_the_nearest(tmp_path):
    (tmp_path / "digits.yaml").write_text("a: 1")
    missing = tmp_path / "digist.yaml"
    assert file_error(missing) == f"{missing}: no such file. Did you mean '{tmp_path}/digits.yaml'?"
    assert file_error(tmp_path / "no" / "x.yaml") == f"{tmp_path}/no/x.yaml: no such file."


def test_a_folder_can_not_be_read(tmp_path):
    assert file_error(tmp_path) == f"{tmp_path}: cannot be read: Is a directory"


# --- paths and plain data ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "steps"),
    [
        ("a", ["a"]),
        ("a.b", ["a", "b"]),
        ("a[0].b", ["a", "0", "b"]),
        ("a.0.b", ["a", "0", "b"]),
        ("a[0][1]", ["a", "0", "1"]),
        ("a-b.c d", ["a-b", "c d"]),
    ],
)
def test_paths(path, steps):
    assert split_path(path) == steps


@pytest.mark.parametrize("path", ["", ".", ".a", "a.", "a..b", "a[", "a[]", "a[x]", "a[-1]", "a]0["])
def test_what_is_no_path(path):
    with pytest.raises(ValueError, match="is not a path such as"):
        split_path(path)


def test_plain_data_comes_and_goes_with_objects_and_tuples():
    thing = object()
    node = from_plain({"a": (1, [thing]), 2: None}, Origin("here"))
    assert plain(node) == {"a": [1, [thing]], 2: None}
    assert {str(leaf.origin) for _, leaf in leaves(node)} == {"here"}


def test_a_named_tuple_is_an_object_not_a_list():
    origin = Origin("x", 1, 2)
    assert from_plain({"a": origin}, Origin("here")).value["a"].value is origin


def test_omegaconf_becomes_plain():
    from omegaconf import OmegaConf

    data = OmegaConf.create({"a": [1, {"b": "${c}"}], "c": 2})
    result = plain(from_plain({"x": data}, Origin("here")))
    assert result == {"x": {"a": [1, {"b": 2}], "c": 2}}
    assert type(result["x"]) is dict
    assert type(result["x"]["a"]) is list
    with pytest.raises(ConfigError, match="nowhere"):
        from_plain(OmegaConf.create({"a": "${nowhere}"}), Origin("here"))


TEXT = st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]), max_size=9)
WORDS = st.sampled_from(["yes", "1e3", "1_0", "null", " x ", "a: b", "# c", "- d", "${e}", "<<", "*f", "???", "1:30"])
SCALAR = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT | WORDS
TREES = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=12
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(TREES, st.sampled_from([None, 1]))
def test_json_is_read_as_json(value, indent):
    assert read(json.dumps(value, indent=indent)) == value


def test_nodes_know_their_place():
    node = Node(1, Origin("a", 2, 3), Origin("a", 2, 1))
    assert node.where == Origin("a", 2, 1)
    assert Node(1, Origin("a", 2, 3)).where == Origin("a", 2, 3)
