import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgm_core.config.interpolation import escape, interpolate
from sgm_core.config.tree import INVALID, ConfigError, Problems, leaves, parse, plain


def resolve(text: str) -> tuple[Any, list[str]]:
    tree, problems = parse(text, "f.yaml"), Problems()
    interpolate(tree, problems)
    return plain(tree), [str(problem) for problem in problems.found]


def value(text: str) -> Any:
    found, problems = resolve(text)
    assert not problems
    return found


@pytest.mark.parametrize("target", ["3", "0.5", "true", "null", "'3'", "text", "[1, {b: 2}]", "{b: [1]}", "{}"])
def test_a_whole_value_keeps_its_type(target):
    found = value(f"a: {target}\nb: ${{a}}\nc: ${{ a }}")
    assert found["a"] == found["b"] == found["c"]
    assert type(found["a"]) is type(found["b"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n-${v.n}", "n-3"),
        ("${v.n}${v.t}", "3text"),
        ("${v.t}/${v.f}/x", "text/0.5/x"),
        ("${v.y} ${v.z}", "true null"),
        ("v${v.l[1]}", "v8"),
        ("${v.l.0}", 7),
        ("${v.l}", [7, 8]),
        ("${${v.name}.n}", 3),
        ("${v.${v.key}}", 3),
        ("${v.l[${v.one}]}", 8),
        ("${.beside}", 1),
        ("${..v.n}", 3),
        ("\\${v.n}", "${v.n}"),
        ("\\\\${v.n}", "\\3"),
        ("\\\\\\${v.n}", "\\${v.n}"),
        ("a\\b${v.n}", "a\\b3"),
        ("$v {v} $ {", "$v {v} $ {"),
    ],
)
def test_references(text, expected):
    base = "v: {n: 3, f: 0.5, t: text, y: true, z: ~, l: [7, 8], name: v, key: n, one: 1}\n"
    assert value(base + f"x: {{beside: 1, y: '{text}'}}")["x"]["y"] == expected


def test_references_are_followed_through_others_in_any_order():
    text = "a: ${b}\nb: ${c.d}\nc: ${e}\ne: {d: '${f}'}\nf: 1\ng: ${c.d}\nh: [[{i: '${c}'}]]"
    assert value(text) == {"a": 1, "b": 1, "c": {"d": 1}, "e": {"d": 1}, "f": 1, "g": 1, "h": [[{"i": {"d": 1}}]]}


def test_a_value_stands_where_the_reference_is_written():
    tree = parse("a: {x: 1}\nb:\n  c: ${a}", "f.yaml")
    interpolate(tree, Problems())
    assert {path: str(node.origin) for path, node in leaves(tree)} == {"a.x": "f.yaml:1:8", "b.c.x": "f.yaml:3:6"}
    tree.value["b"].value["c"].value["x"].value = 2
    assert plain(tree)["a"] == {"x": 1}  # it is a copy


def test_keys_with_dots_hold_references_and_numbers_are_keys():
    assert value("a.b: ${c.4}\nc: {4: x, true: '${.4}'}") == {"a.b": "x", "c": {4: "x", True: "x"}}


def test_everything_that_fails_is_reported_once_and_what_depends_on_it_is_not():
    text = """\
a: ${nowhere}
b: x${v.nmae}
c: ${a}
d: ${c.e}
e: "-${d}-"
f: ${v.name.deeper}
g: ${l[3]}
h: x${v}
i: ${a
j: ${}
k: ${..a}
v: {name: n}
l: [1]
"""
    found, problems = resolve(text)
    assert problems == [
        "f.yaml:1:4 a: ${nowhere} cannot be resolved: there is no 'nowhere' at the top level.",
        "f.yaml:2:4 b: x${v.nmae} cannot be resolved: there is no 'nmae' in 'v'. Did you mean 'name'?",
        "f.yaml:6:4 f: ${v.name.deeper} cannot be resolved: 'v.name' is a plain value, it has no 'deeper'",
        "f.yaml:7:4 g: ${l[3]} cannot be resolved: there is no '3' in 'l'.",
        "f.yaml:8:4 h: x${v} cannot be resolved: a mapping or list cannot stand inside a text",
        "f.yaml:9:4 i: ${a cannot be resolved: a '}' is missing",
        "f.yaml:10:4 j: ${} cannot be resolved: write ${key.path}",
        "f.yaml:11:4 k: ${..a} cannot be resolved: there is nothing above the top level",
    ]
    assert all(found[key] is INVALID for key in "abcdefghijk")


@pytest.mark.parametrize(
    ("text", "chain"),
    [
        ("a: ${a}", "a -> a"),
        ("a: ${b}\nb: ${c}\nc: ${a}", "a -> b -> c -> a"),
        ("a: {b: '${a}'}", "a.b -> a.b"),
        ("a: {b: '${c}'}\nc: {d: 'x${a.b}'}", "a.b -> c.d -> a.b"),
        ("a: ['${.[0]}']", None),
        ("a: ${${a}}", "a -> a"),
    ],
)
def test_a_cycle_is_one_problem(text, chain):
    _, [problem] = resolve(text)
    assert chain is None or problem.endswith(f"it refers to itself: {chain}")


def test_a_long_chain_is_refused():
    text = "\n".join(f"a{i}: ${{a{i + 1}}}" for i in range(5000)) + "\na5000: 1"
    assert any("a chain of more than" in problem for problem in resolve(text)[1])


@pytest.mark.parametrize("form", ["[{}]", "{{k: [{}]}}"])
def test_a_bomb_of_references_is_refused(form):
    """Of 10^10 values, which nothing could hold: it is refused before it is unfolded."""
    text = "a0: [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "\n".join(
        f"a{i + 1}: " + form.format(", ".join([f"'${{a{i}}}'"] * 9)) for i in range(9)
    )
    with pytest.raises(ConfigError, match="references unfold this config into more than"):
        resolve(text)


def test_references_can_not_nest_deeper_than_brackets():
    text = "a0: " + "[" * 60 + "1" + "]" * 60
    text += "".join(f"\na{i + 1}: {'[' * 60}'${{a{i}}}'{']' * 60}" for i in range(40))
    with pytest.raises(ConfigError, match="more than 100 levels"):
        resolve(text)


# --- no code, no secrets -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "${oc.decode:'1'}",
        "${oc.create:{}}",
        "${oc.select:a}",
        "${oc.dict.keys:a}",
        "${eval:1+1}",
        "${oc.${part}:SECRET}",
        "${${whole}:SECRET}",
        "${ oc.env :SECRET}",
        "${oc.env:SECRET}",
        "${oc.env:SECRET,default}",
        "${oc.env:${name}}",
        "${oc.env:'SECRET'}",
        "x${oc.env:SECRET}y",
        "${${oc.env:SECRET}}",
        "${oc.env:}",
        "${a:b}",
    ],
)
def test_resolvers_are_refused_however_they_are_spelt(text, monkeypatch):
    monkeypatch.setenv("SECRET", "the-secret")
    monkeypatch.setenv("SGM_CONFIG_ENV", "OTHER, SECRETS")
    found, [problem] = resolve(f'part: env\nwhole: oc.env\nname: SECRET\na: "{text}"')
    assert found["a"] is INVALID
    assert "the-secret" not in problem


def test_an_environment_variable_that_is_listed_is_a_text(monkeypatch):
    monkeypatch.setenv("SGM_CONFIG_ENV", "DATA, NUMBER,UNSET")
    monkeypatch.setenv("DATA", "/data/${x}")
    monkeypatch.setenv("NUMBER", "3")
    text = "a: ${oc.env:DATA}/train\nb: ${oc.env:NUMBER}\nc: '${oc.env:UNSET, /tmp}'\nd: ${oc.env:UNSET}"
    found, problems = resolve(text)
    assert (found["a"], found["b"], found["c"]) == ("/data/${x}/train", "3", "/tmp")
    assert problems == [
        "f.yaml:4:4 d: ${oc.env:UNSET} cannot be resolved: the environment variable UNSET is not set; "
        "a default may follow: ${oc.env:UNSET,default}"
    ]


def test_the_refusal_says_how_to_open_a_variable(monkeypatch):
    monkeypatch.setenv("SGM_CONFIG_ENV", "DATA")
    assert resolve("a: ${oc.env:HOME}")[1][0].endswith("To open it, set SGM_CONFIG_ENV=DATA,HOME")


def test_no_module_is_imported():
    before = set(sys.modules)
    resolve("a: antigravity\nb: ${antigravity}\nc: ${antigravity:fly}\nd: '${a}.fly'")
    assert set(sys.modules) - before <= {"difflib"}


@settings(max_examples=200)
@given(st.text(st.sampled_from("$\\{}a.: "), max_size=12))
def test_an_escaped_text_is_itself(text):
    tree, problems = parse("a: x", "f.yaml"), Problems()
    tree.value["a"].value = escape(text)
    interpolate(tree, problems)
    assert not problems.found
    assert tree.value["a"].value == text
