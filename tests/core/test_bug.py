"""An exception that nobody expected is one line, and a file to report it with."""

import re
from pathlib import Path

import pytest

from sgm_core.cli import app
from sgm_core.cli.app import main
from sgm_core.files import BadFileError

pytestmark = pytest.mark.reports_bugs


@pytest.fixture
def broken(monkeypatch, tmp_path):
    """A command that fails as no command should."""
    home = tmp_path / "home" / "somebody"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def fail(given):
        raise KeyError(f"nothing in {home}/runs\x1b[31m")

    monkeypatch.setattr(app, "dispatch", fail)
    return home


def test_it_is_one_line_and_the_file_has_traceback_versions_and_command_without_secrets(broken, capsys):
    assert main(["train", "digits", "trainer.logger.api_key=hunter2", "--name=a"]) == 1
    err = capsys.readouterr().err
    assert re.fullmatch(r"A bug: KeyError: .*\nPlease report it and attach (\S+); CONTRIBUTING.md says how\n", err)
    assert "\x1b" not in err
    text = Path(re.search(r"attach (\S+);", err)[1]).read_text()
    assert "sgm train digits trainer.logger.api_key=... --name=..." in text
    assert "Traceback (most recent call last)" in text
    assert "KeyError" in text
    assert re.search(r"sgm-core \S+, torch \S+, lightning \S+, Python \d", text)
    assert "hunter2" not in text
    assert str(broken) not in text
    assert "~/runs" in text


def test_debug_shows_the_traceback(broken):
    with pytest.raises(KeyError):
        main(["train", "--debug"])


def test_a_bad_file_is_told_without_the_name_of_the_error(monkeypatch, capsys):
    def fail(given):
        raise BadFileError("data/a.json:3", "no JSON: it ends in a comma")

    monkeypatch.setattr(app, "dispatch", fail)
    assert main(["train"]) == 1
    assert capsys.readouterr().err == "data/a.json:3: no JSON: it ends in a comma\n"


def test_no_memory_is_no_bug(monkeypatch, capsys):
    def fail(given):
        raise MemoryError

    monkeypatch.setattr(app, "dispatch", fail)
    assert main(["train"]) == 1
    assert capsys.readouterr().err == "not enough memory\n"
