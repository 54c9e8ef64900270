"""Top-level keys of a config that tools add: entry points of `sgm.sections`."""

import sys

import pytest

import sgm_core as sgm
from sgm_core.config.tree import ConfigError
from sgm_core.runs.changes import changes

NOTES = '''
from dataclasses import dataclass
from typing import Annotated
from annotated_types import Ge

@dataclass
class Notes:
    """Notes on a run.

    Attributes:
        every: steps between two notes.
        text: what they say.
    """

    {resumable}
    every: Annotated[int, Ge(1)] = 10
    text: str = "hello"
'''


@pytest.fixture
def install(make_distribution):
    def make(distribution="sgm-notes", resumable="resumable = True", source=NOTES, module="throwaway_notes"):
        files = {f"{module}.py": source.replace("{resumable}", resumable)}
        make_distribution(distribution, {"sgm.sections": {"notes": f"{module}:Notes"}}, files)

    return make


def load(text: str):
    return sgm.load_config("digits", overrides=[text])


def test_a_section_is_checked_and_built_like_everything_else(install):
    install()
    config = load("notes={every: 3}")
    sgm.check(config)
    settings = config.build("notes")
    assert (settings.every, settings.text) == (3, "hello")
    assert sgm.load_config("digits").build("notes").every == 10


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("notes={every: 0}", "notes.every"),
        ("notes={evry: 1}", "Did you mean 'every'"),
        ("nots={}", "Did you mean 'notes'"),
    ],
)
def test_a_mistake_in_it_is_reported_with_its_line(install, given, message):
    install()
    with pytest.raises(ConfigError, match=message):
        sgm.check(load(given))


def test_without_the_tool_the_key_is_unknown():
    with pytest.raises(ConfigError, match="has no 'notes'"):
        sgm.check(load("notes={every: 3}"))


def test_two_offers_matter_only_where_the_section_is_used(install):
    install()
    install("sgm-other", module="throwaway_other")
    sgm.check(sgm.load_config("digits"))
    with pytest.raises(ConfigError, match=r"sgm-notes:notes|sgm-notes"):
        sgm.check(load("notes={every: 3}"))


def test_a_broken_section_breaks_only_the_configs_that_have_it(install):
    install(source="raise RuntimeError('broken')")
    sgm.check(sgm.load_config("digits"))
    with pytest.raises(ConfigError, match="broken"):
        sgm.check(load("notes={every: 3}"))


@pytest.mark.parametrize(("resumable", "free"), [("resumable = True", True), ("", False)])
def test_it_says_whether_a_resumed_run_may_change_it(install, resumable, free):
    install(resumable=resumable)
    [change] = changes({"notes": {"every": 3}}, {"notes": {"every": 4}})
    assert change.free is free


def test_the_schema_for_editors_has_it(install):
    from sgm_plugins.tools.catalog.source.json_schema import config_schema

    install()
    assert any("notes" in d.get("properties", {}) for d in config_schema()["$defs"].values())


def test_a_broken_section_stops_only_the_config_that_has_it(install, tmp_path):
    install(source="raise RuntimeError('no licence')\n")
    sgm.load_config("digits").check()
    assert sgm.load_config("digits").checked
    [change] = changes({"seed": 1}, {"seed": 2})
    assert not change.free
    (tmp_path / "notes.yaml").write_text("extends: digits\nnotes: {every: 3}\n")
    with pytest.raises(ConfigError, match=r"notes\.yaml:2:8 notes: section 'notes' of sgm-notes 1\.0 cannot be loaded"):
        sgm.load_config(tmp_path / "notes.yaml").check()


def test_a_section_that_a_config_does_not_have_is_imported_when_it_is_asked_for(install):
    install()
    config = sgm.load_config("digits")
    assert config.checked
    assert "throwaway_notes" not in sys.modules
    assert config.build("notes").every == 10
