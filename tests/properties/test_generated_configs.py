"""Configs drawn from the installed signatures, most of them spoilt: everyone who judges them agrees."""

import contextlib
import io
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from properties.recorders import BUILT, NAME, RECORDERS
from properties.trees import Text, as_json, configs, path_of, paths, spoil, write

import sgm_core as sgm
from sgm_core.cli.app import main
from sgm_core.config.tree import ConfigError, Problem
from sgm_plugins.tools.catalog.source.json_schema import config_schema

SENSELESS = "what makes no sense together"
BEYOND_SCHEMA = {
    "1.0 is an integer to JSON Schema": r"expected .*an integer.*, got -?[\d.e+]+ \(write -?\d+\)$",
    "1.0 is 1 among choices to JSON Schema": r": expected one of [^\n]*\d[^\n]*, got -?\d+\.0$",
    "JSON has no NaN, and no number that is too large": r"expected a number.*, got (nan|a number of \d+ digits)$",
    "the keys of a JSON mapping are texts": r"(?i)\.(none: .*, got null|(true|false|-?\d[\d.]*): expected .*, got \2)$",
    "the class of a component": r": \w+ '\w+' is not an? \w+, which is needed here$",
    "a key written twice is one key to a JSON reader": r": this key is written twice, first in line \d+$",
    "how deep a file may be": r": nested more than 100 deep$",
    SENSELESS: r": [^\n]* cannot be had like this: ",
}
"""What the checker refuses and JSON Schema has no words for: rule -> the message behind the place."""


@pytest.mark.hypothesis
@pytest.mark.parametrize("examples", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_checker_schema_and_command_agree_and_nothing_is_built_of_a_bad_config(
    register, tmp_path, monkeypatch, examples
):
    monkeypatch.chdir(tmp_path)
    for kind, recorder in RECORDERS.items():
        register(kind, NAME)(recorder)
    validator = Draft202012Validator(config_schema())
    file = Path("config.yaml")
    seen: Counter[str] = Counter()

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def agree(data):
        fitting = data.draw(configs(preferred=NAME))
        config, damage = spoil(data.draw, fitting)
        keys = [steps for steps in paths(config) if isinstance(steps[-1], str)]
        twice = data.draw(st.sampled_from(keys)) if keys and data.draw(st.integers(0, 19)) == 0 else ()
        text = write(config, twice)
        file.write_text(text.yaml, encoding="utf-8")

        problems = problems_of(file)
        seen["bad" if problems else "fine"] += 1
        if not damage and not twice:
            assert all(SENSELESS in beyond_schema(problem) for problem in problems), "it was drawn to fit"
        assert_command_says(file, problems)
        assert_places(text, problems)
        for change in damage:
            if change.certain and not any("deep" in problem.message for problem in problems):
                path = path_of(config, change.steps)
                assert any(same_place(problem.path, path) for problem in problems), (change, problems)

        refused = [error.json_path for error in validator.iter_errors(as_json(config))]
        if problems:
            within = [problem for problem in problems if not beyond_schema(problem)]
            seen.update(rule for problem in problems for rule in beyond_schema(problem))
            assert refused or not within, f"the schema takes what the checker refuses: {within[0]}"
        else:
            assert not refused, f"the schema refuses what the checker takes: {refused}"

        if problems:
            seen["with a recorder"] += NAME in text.yaml
            with pytest.raises(ConfigError):
                sgm.build_engine(sgm.load_config(file))
            if not twice and not any("deep" in problem.message for problem in problems):
                with pytest.raises(ConfigError):
                    sgm.build_engine(config)
            if any(problem.path.startswith("model.") for problem in problems) and "model" in config and not twice:
                with pytest.raises(ConfigError):
                    sgm.build("engines", config["model"])
        assert BUILT == []

    agree()
    print(f"\n{dict(seen)}")  # noqa: T201
    assert min(seen["bad"], seen["with a recorder"]) > examples / 4
    assert seen["fine"] > examples / 8


def problems_of(file: Path) -> list[Problem]:
    """As told by the classes themselves; the command reads their source."""
    try:
        assert sgm.load_config(file).checked
    except ConfigError as error:
        return error.problems
    return []


def assert_command_says(file: Path, problems: list[Problem]) -> None:
    """`sgm check` exits with 1 and has every problem with its place, or with 0."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["check", str(file)])
    if not problems and "begin with sigma = inf" in err.getvalue():  # each part fits, and together they have no limit
        assert code == 1
        assert err.getvalue().startswith(f"{file}:")
        return
    assert code == (1 if problems else 0), err.getvalue()
    assert err.getvalue() == "".join(f"{problem}\n" for problem in problems)
    for problem in problems:
        assert re.match(rf"{re.escape(str(file))}:[1-9]\d*:[1-9]\d*[ :]", str(problem)), problem
        assert problem.path or "the key 'model' is missing" in problem.message or "deep" in problem.message, problem


def assert_places(text: Text, problems: list[Problem]) -> None:
    """Each problem points to its key or value, or to the name of its component."""
    for problem in problems:
        allowed = text.places.get(problem.path, set()) | text.places.get(f"{problem.path}.use", set())
        if "deep" not in problem.message:
            assert (problem.origin.line, problem.origin.column) in allowed, problem


def same_place(found: str, planted: str) -> bool:
    """A problem may be told of the mapping around the planted one, whose component it is, but not of the top."""
    return bool(found) and (planted.startswith(found) or found.startswith(planted))


def beyond_schema(problem: Problem) -> list[str]:
    text = f"{problem.path}: {problem.message}"
    return [rule for rule, pattern in BEYOND_SCHEMA.items() if re.search(pattern, text)]


def test_the_recorders_record(register):
    for kind, recorder in RECORDERS.items():
        register(kind, NAME)(recorder)
    try:
        sgm.build_engine({"model": {"use": NAME, "sampler": NAME, "scaling": NAME, "callbacks": [NAME]}})
        assert sorted(BUILT) == ["callbacks", "engines", "samplers", "scalings"]
    finally:
        BUILT.clear()
