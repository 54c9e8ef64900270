import os
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from sgm_core.config.compose import compose, find_config, shipped_configs
from sgm_core.config.tree import ConfigError, Node, leaves, plain


@pytest.fixture
def write(tmp_path):
    """Writes config files into one folder."""

    def write(**files: str) -> list[Path]:
        for name, text in files.items():
            (tmp_path / f"{name}.yaml").write_text(dedent(text), encoding="utf-8")
        return [tmp_path / f"{name}.yaml" for name in files]

    return write


def tree(*sources: Any, overrides: Any = ()) -> Node:
    found, problems = compose(sources, overrides)
    assert not problems
    return found


def value(*sources: Any, overrides: Any = ()) -> Any:
    return plain(tree(*sources, overrides=overrides))


def problems(*sources: Any, overrides: Any = ()) -> list[str]:
    return [str(problem) for problem in compose(sources, overrides)[1]]


def fatal(*sources: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        compose(sources)
    return str(caught.value)


# --- merging -------------------------------------------------------------------------------------------------------


def test_files_merge_from_left_to_right_key_by_key(write):
    files = write(a="a: {x: 1, y: [1, 2], z: {k: 1}}\nb: 1", b="a: {y: [3], z: {l: 2}}\nc: 2", c="a: {x: ~}")
    assert value(*files) == {"a": {"x": None, "y": [3], "z": {"k": 1, "l": 2}}, "b": 1, "c": 2}


def test_every_value_remembers_the_file_it_came_from(write, tmp_path):
    files = write(a="a:\n  x: 1\n  y: 2", b="a:\n  # new\n  y: 3")
    origins = {path: str(node.origin) for path, node in leaves(tree(*files, overrides=["a.z=4"]))}
    assert origins == {"a.x": f"{tmp_path}/a.yaml:2:6", "a.y": f"{tmp_path}/b.yaml:3:6", "a.z": "override 'a.z=4'"}


def test_another_component_takes_none_of_the_old_ones_arguments(write):
    files = write(a="s: {use: euler_edm, num_steps: 5, s_churn: 3}", b="s: {use: dpmpp2m, num_steps: 9}")
    assert value(*files) == {"s": {"use": "dpmpp2m", "num_steps": 9}}


def test_the_same_component_keeps_its_arguments(write):
    files = write(a="s: {use: euler_edm, num_steps: 5, s_churn: 3}", b="s: {use: euler_edm, num_steps: 9}")
    assert value(*files) == {"s": {"use": "euler_edm", "num_steps": 9, "s_churn": 3}}


def test_a_mapping_without_use_goes_on_with_the_component_below_in_short_form_too(write):
    for below in ("s: euler_edm", "s: {use: euler_edm}"):
        assert value(*write(a=below, b="s: {num_steps: 9}")) == {"s": {"use": "euler_edm", "num_steps": 9}}


def test_a_bare_name_is_the_component_with_its_defaults(write):
    assert value(*write(a="s: {use: euler_edm, num_steps: 5}", b="s: euler_edm")) == {"s": "euler_edm"}


# --- extends -------------------------------------------------------------------------------------------------------


def test_extends_is_relative_to_its_own_file(tmp_path):
    (tmp_path / "bases").mkdir()
    (tmp_path / "bases" / "root.yaml").write_text("a: 1\nb: 1\nc: 1")
    (tmp_path / "bases" / "base.yaml").write_text("extends: root.yaml\nb: 2\nc: 2")
    (tmp_path / "a.yaml").write_text("extends: bases/base.yaml\nc: 3")
    assert value(tmp_path / "a.yaml") == {"a": 1, "b": 2, "c": 3}


def test_extends_takes_a_list_the_later_over_the_earlier(write):
    files = write(a="x: 1\ny: 1\nz: 1", b="y: 2\nz: 2", c="extends: [a.yaml, b.yaml]\nz: 3")
    assert value(files[-1]) == {"x": 1, "y": 2, "z": 3}


def test_extends_takes_the_name_of_a_shipped_config(write):
    config = value(*write(a="extends: digits\nseed: 5"))
    assert (config["seed"], config["model"]["use"]) == (5, "diffusion")


@pytest.mark.parametrize("text", ["extends: a.yaml", "extends: [b.yaml]"])
def test_files_that_extend_each_other_are_refused(write, tmp_path, text):
    files = write(a=text, b="extends: c.yaml", c="extends: a.yaml")
    chain = "a.yaml -> a.yaml" if "a.yaml" in text else "a.yaml -> b.yaml -> c.yaml -> a.yaml"
    assert fatal(files[0]).endswith(f"extends: a file extends itself: {chain}")


def test_a_base_that_two_files_extend_is_no_cycle(write):
    files = write(
        base="a: 1", b="extends: base.yaml\nb: 1", c="extends: base.yaml\nc: 1", d="extends: [b.yaml, c.yaml]"
    )
    assert value(files[-1]) == {"a": 1, "b": 1, "c": 1}


def test_a_missing_base_names_the_place_and_the_nearest_file(write, tmp_path):
    files = write(a="x: 1\nextends: [bsae.yaml]", base="y: 1")
    where = f"{tmp_path}/a.yaml:2:11 extends"
    assert fatal(files[0]) == f"{where}: no such file: {tmp_path}/bsae.yaml. Did you mean 'base.yaml'?"


def test_a_base_is_not_looked_for_in_the_working_folder(write, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "base.yaml").write_text("y: 1")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert "no such file" in fatal(write(a="extends: base.yaml")[0])


def test_a_base_of_an_unknown_name_gets_the_nearest_shipped_or_beside_it(write):
    assert "a.yaml:1:10 extends: no file and no shipped config 'digist'. Did you mean 'digits'?\nShipped configs: " in (
        fatal(*write(a="extends: digist")).replace("a.yaml:1:10: no", "a.yaml:1:10 extends: no")
    )
    assert "Did you mean 'my_base.yaml'?" in fatal(write(b="extends: my_base", my_base="x: 1")[0])


@pytest.mark.parametrize("text", ["extends: 3", "extends: {a: 1}", "extends: [[a.yaml]]", "extends:", "extends: ''"])
def test_extends_of_another_form_is_refused(write, text):
    assert "extends: write the name of a file, or a list of names, e.g. extends: base.yaml" in fatal(*write(a=text))


def test_problems_of_all_files_are_collected(write):
    files = write(base="a: !x 1", a="extends: base.yaml\nb: 1\nb: 2", c="c: {d: 1, d: 2}")
    found = problems(files[1], files[2], overrides=["x", "e=${nowhere}"])
    assert [text.split(": ")[-1].split(",")[0][:24] for text in found] == [
        "this key is written twice"[:24],
        "a config holds plain val",
        "this key is written twice"[:24],
        "write key.path=value",
        "there is no 'nowhere' at",
    ]


# --- names ---------------------------------------------------------------------------------------------------------


def test_the_built_in_configs_are_found_by_name():
    assert find_config("digits").name == "digits.yaml"
    assert value("digits") == value(find_config("digits"))


def test_a_folder_of_the_same_name_does_not_hide_a_shipped_config(tmp_path, monkeypatch):
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_config("digits").name == "digits.yaml"


def test_an_unknown_name_gets_the_nearest_shipped_and_local(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert fatal("digist").startswith("digist: no file and no shipped config 'digist'. Did you mean 'digits'?\nShipped")
    (tmp_path / "mine.yaml").write_text("")
    assert "Did you mean 'mine.yaml'?" in fatal("mine")


def test_plugins_ship_configs_and_are_not_imported(make_distribution):
    files = {
        "throwaway_pack/__init__.py": "raise RuntimeError('imported')",
        "throwaway_pack/configs/toy.yaml": "a: 1",
        "throwaway_pack/configs/digits.yaml": "a: 2",
        "throwaway_flat/flat.yaml": "a: 3",
    }
    make_distribution("sgm-pack", {"sgm.configs": {"x": "throwaway_pack.configs", "y": "throwaway_flat"}}, files)
    shipped = shipped_configs()
    assert value("toy") == {"a": 1}
    assert value("flat") == {"a": 3}
    assert "a" not in value("digits")  # the built-in keeps its name
    assert shipped["digits"] != shipped["sgm-pack:digits"]
    assert value("sgm-pack:digits") == {"a": 2}


def test_a_config_that_two_plugins_ship_is_ambiguous_only_by_its_bare_name(make_distribution):
    for letter in "ab":
        files = {f"throwaway_{letter}/toy.yaml": f"a: {letter}"}
        make_distribution(f"sgm-{letter}", {"sgm.configs": {"x": f"throwaway_{letter}"}}, files)
    assert "several packages ship a config 'toy'. Write 'sgm-a:toy' or 'sgm-b:toy'." in fatal("toy")
    assert value("sgm-b:toy") == {"a": "b"}


def test_a_package_of_configs_that_is_not_there_is_passed_over(make_distribution):
    make_distribution("sgm-pack", {"sgm.configs": {"x": "throwaway_absent", "y": "json:tool"}})
    assert "digits" in shipped_configs()


# --- overrides -----------------------------------------------------------------------------------------------------

BASE = "t: {n: 1}\nl: [{a: 1}, {a: 2}]\ns: euler_edm\nm: {use: x, k: 1}\nd: {4: 1}"


@pytest.mark.parametrize(
    ("override", "path", "expected"),
    [
        ("t.n=2", "t", {"n": 2}),
        ("t.n=1e-3", "t", {"n": 0.001}),
        ("t.n='2'", "t", {"n": "2"}),
        ("t.n=", "t", {"n": None}),
        ("t.n=#x", "t", {"n": None}),
        ("t.n=a=b", "t", {"n": "a=b"}),
        ("t.n={a: [1, x]}", "t", {"n": {"a": [1, "x"]}}),
        ("t={k: 2}", "t", {"k": 2}),
        ("l[1].a=3", "l", [{"a": 1}, {"a": 3}]),
        ("l.0.a=3", "l", [{"a": 3}, {"a": 2}]),
        ("l[0]=3", "l", [3, {"a": 2}]),
        ("new.deep.key=1", "new", {"deep": {"key": 1}}),
        ("s=heun", "s", "heun"),
        ("s.num_steps=3", "s", {"use": "euler_edm", "num_steps": 3}),
        ("m.use=y", "m", {"use": "y", "k": 1}),
        ("d.4=2", "d", {4: 2}),
    ],
)
def test_an_override_sets_one_value(write, override, path, expected):
    assert value(*write(a=BASE), overrides=[override])[path] == expected


def test_overrides_apply_in_order(write):
    assert value(*write(a=BASE), overrides=["t={a: 1}", "t.b=2", "t.a=3"])["t"] == {"a": 3, "b": 2}


@pytest.mark.parametrize("override", ["", "x", "=1", "a..b=1", ".a=1", "a[x]=1", "a b", "[0]=1", "a.=1"])
def test_an_override_of_another_form_is_named(write, override):
    assert problems(*write(a=BASE), overrides=[override]) == [
        f"override '{override}': write key.path=value, e.g. trainer.max_steps=100"
    ]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("l[2].a=1", "l: there is no '2' in this list of 2: its positions are 0 to 1"),
        ("l.x=1", "l: there is no 'x' in this list of 2: its positions are 0 to 1"),
        ("t.n=[1", ": not valid YAML: did not find expected ',' or ']'"),
        ("t.n=!!python/name:os.system", ": the tag !!python/name:os.system is not allowed: a config holds plain"),
        ("t.n=\udcff", ": not valid YAML: the character '\\udcff'"),
        ("t.n=${nowhere}", "t.n: ${nowhere} cannot be resolved"),
    ],
)
def test_an_error_of_an_override_names_it(write, override, says):
    [problem] = problems(*write(a=BASE), overrides=[override])
    assert problem.startswith(f"override '{override}'")
    assert says in problem


def test_all_wrong_overrides_are_reported(write):
    assert len(problems(*write(a=BASE), overrides=["x", "l[7]=1", "t.n=[", "t.n=3"])) == 3


def test_an_override_changes_one_of_two_aliased_values(write):
    assert value(*write(a="a: &x {n: 1}\nb: *x"), overrides=["a.n=2"]) == {"a": {"n": 2}, "b": {"n": 1}}


def test_the_files_that_a_config_extends_are_counted(tmp_path):
    for i in range(30):  # 2^30 reads
        text = f"extends: [x{i + 1}.yaml, x{i + 1}.yaml]\n" if i < 29 else "seed: 1\n"
        (tmp_path / f"x{i}.yaml").write_text(text)
    for i in range(200):
        (tmp_path / f"c{i}.yaml").write_text(f"extends: c{i + 1}.yaml\n" if i < 199 else "seed: 1\n")
    for name in ("x0", "c0"):
        with pytest.raises(ConfigError, match="a config extends at most 1000 files, 50 deep"):
            compose([tmp_path / f"{name}.yaml"])
    assert compose([tmp_path / "x22.yaml"])[0].value["seed"].value == 1  # 255 reads
    assert compose([tmp_path / "c150.yaml"])[0].value["seed"].value == 1  # 50 deep


@pytest.mark.skipif(os.name != "posix", reason="pipes")
def test_what_is_no_config_is_not_read(tmp_path):
    with (tmp_path / "huge.yaml").open("wb") as file:
        file.truncate(20 << 30)
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "base.yaml").write_text("extends: pipe.yaml\n")
    for name in ("huge", "pipe", "base"):
        with pytest.raises(ConfigError, match=r"regular|larger|no such file"):
            compose([tmp_path / f"{name}.yaml"])


# --- spellings -----------------------------------------------------------------------------------------------------


def test_a_qualified_name_of_the_same_component_keeps_its_arguments(write):
    short, long = "a: {use: euler_edm, k: 1}\n", "a: {use: 'sgm-core:euler_edm', n: 2}\n"
    assert value(*write(x=short, y=long))["a"] == {"use": "sgm-core:euler_edm", "k": 1, "n": 2}
    assert value(*write(x=long, y=short))["a"] == {"use": "euler_edm", "k": 1, "n": 2}


def test_a_qualified_name_of_another_component_takes_none_of_the_old_ones_arguments(write, make_distribution):
    make_distribution("sgm-other", {"sgm.samplers": {"euler_edm": "other:Euler"}})
    short, long = "a: {use: euler_edm, k: 1}\n", "a: {use: 'sgm-other:euler_edm', n: 2}\n"
    assert value(*write(x=short, y=long))["a"] == {"use": "sgm-other:euler_edm", "n": 2}


def test_a_shipped_config_may_always_be_named_with_its_distribution(make_distribution, write):
    files = {"throwaway_conf/__init__.py": "", "throwaway_conf/mine.yaml": "x: 4\n"}
    make_distribution("throwaway-conf", {"sgm.configs": {"any": "throwaway_conf"}}, files)
    assert find_config("throwaway-conf:mine") == find_config("throwaway_conf:mine") == find_config("mine")
    assert find_config("sgm-core:digits") == find_config("digits")
    assert value(*write(child="extends: throwaway-conf:mine\n")) == {"x": 4}
