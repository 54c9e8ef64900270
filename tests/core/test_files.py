from pathlib import Path

import pytest

from sgm_core.files import replacing, sweep


def test_the_new_file_appears_whole_under_its_name_and_no_other_stays(tmp_path: Path):
    with replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
        assert not (tmp_path / "a.txt").exists()
        assert temporary.parent == tmp_path  # another file system would turn the rename into a copy
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", "new")]


def test_an_error_leaves_the_old_file_and_no_other(tmp_path: Path):
    (tmp_path / "a.txt").write_text("old")

    def fail() -> None:
        with replacing(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", "old")]


def test_what_killed_processes_left_is_swept_and_nothing_else(tmp_path: Path):
    for name in (".report.html.123.tmp", ".run.json.123.tmp", ".mine.tmp", "a.123.tmp", "run.json"):
        (tmp_path / name).touch()
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".mine.tmp", "a.123.tmp", "run.json"}
