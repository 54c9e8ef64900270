"""A third party could have written the report: a copy of it under another name works, from pip install on."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.conftest import Venv
from support.places import ROOT

pytestmark = pytest.mark.slow

PROJECT = """
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "sgm-journal"
version = "1.0"

[project.entry-points."sgm.commands"]
journal = "sgm_journal.command"

[project.entry-points."sgm.plugins"]
journal = "sgm_journal.hooks"

[project.entry-points."sgm.sections"]
journal = "sgm_journal.settings:Reporting"

[tool.setuptools]
packages = ["sgm_journal"]

[tool.setuptools.package-data]
"*" = ["*.css", "*.js", "*.html", "*.jinja", "*.j2"]
"""

LIMIT = '''
"""A check of a third party."""
from sgm_core import hookimpl


@hookimpl
def check_config(config):
    if config["trainer.max_steps"] > 1000:
        yield "trainer.max_steps", "the journal has 1000 pages"
'''


@pytest.fixture(scope="module")
def journal(fresh: Venv, tmp_path_factory) -> Iterator[Venv]:
    """The environment with the copy installed by pip."""
    folder = tmp_path_factory.mktemp("journal")
    package = folder / "sgm_journal"
    shutil.copytree(ROOT / "sgm_plugins" / "tools" / "report", package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in package.rglob("*.*"):
        text = file.read_text(encoding="utf-8").replace("sgm_plugins.tools.report", "sgm_journal")
        for name in ("report.html", "run.json"):
            text = text.replace(f'"{name}"', f'"{name.replace("report", "journal").replace("run.", "journal-run.")}"')
        file.write_text(text.replace('build("report")', 'build("journal")'), encoding="utf-8")
    (package / "limit.py").write_text(LIMIT)
    (folder / "pyproject.toml").write_text(
        PROJECT.replace('journal = "sgm_journal.hooks"', 'journal = "sgm_journal.hooks"\nlimit = "sgm_journal.limit"')
    )
    fresh.pip_install("--no-deps", str(folder), cwd=folder)
    yield fresh
    fresh.run("pip", "uninstall", "--yes", "--quiet", "sgm-journal", cwd=folder)  # the environment is the session's


@pytest.fixture(scope="module")
def run(journal: Venv, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    done = journal.run(
        "sgm", "train", "digits", "trainer.max_steps=4", "data.batch_size=16", "--name", "a",
        "journal.interval=0.01", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "a"


def test_its_callback_writes_its_page_beside_ours(run):
    assert "<html" in (run / "journal.html").read_text(encoding="utf-8")
    assert (run / "report.html").is_file()
    assert json.loads((run / "journal-run.json").read_text())["state"] == "finished"


def test_its_plugins_are_in_the_lock(run):
    rows = json.loads((run / "lock.json").read_text())
    assert {(row["kind"], row["qualified"]) for row in rows if row["distribution"] == "sgm-journal"} == {
        ("plugins", "sgm-journal:journal"),
        ("plugins", "sgm-journal:limit"),
    }


def test_its_command_writes_the_page_again(journal, run):
    page = run / "journal.html"
    page.unlink()
    done = journal.run("sgm", "journal", str(run), cwd=run)
    assert done.returncode == 0, done.stderr
    assert page.is_file()
    assert "journal" in journal.run("sgm", "--help", cwd=run).stdout


def test_its_section_changes_what_its_callback_does(journal, tmp_path):
    done = journal.run(
        "sgm", "train", "digits", "trainer.max_steps=1", "data.batch_size=16", "journal={write: false}", "--name", "b",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "runs" / "b" / "journal.html").exists()
    done = journal.run("sgm", "check", "digits", "journal={writ: false}", cwd=tmp_path)
    assert done.returncode == 1
    assert "Did you mean 'write'" in done.stderr


def test_its_check_is_asked_by_train_and_check(journal, tmp_path):
    for command in (("check", "--shapes"), ("train",)):
        done = journal.run("sgm", *command, "digits", "trainer.max_steps=1001", cwd=tmp_path)
        assert done.returncode == 1, command
        assert "trainer.max_steps: the journal has 1000 pages" in done.stderr, command


def test_without_it_nothing_is_left(journal, tmp_path):
    done = journal.run("sgm", "check", "digits", "journal={write: false}", "--plugins", "off", cwd=tmp_path)
    assert done.returncode == 1
    assert "a config has no 'journal'" in done.stderr
