import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

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
    for name in (".report.html.123.tmp", ".run.json.0123456789abcdef.tmp", ".mine.tmp", "a.123.tmp", "run.json"):
        (tmp_path / name).touch()
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".mine.tmp", "a.123.tmp", "run.json"}


@pytest.mark.skipif(os.name != "posix", reason="permissions")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_the_new_file_follows_the_umask_whoever_writes_it(tmp_path: Path, umask: int, mode: int):
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "a.safetensors") as temporary:
            save_file({"a": torch.ones(3)}, temporary)
        with replacing(tmp_path / "a.txt") as temporary:
            temporary.write_text("text")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {mode}


def test_the_temporary_file_is_new_and_its_name_cannot_be_foreseen(tmp_path: Path):
    names = set()
    for _ in range(20):
        with replacing(tmp_path / "a.txt") as temporary:
            assert temporary.read_bytes() == b""
            names.add(temporary.name)
            temporary.write_text("a")
    assert len(names) == 20


@pytest.mark.skipif(os.name != "posix", reason="links")
def test_a_link_in_the_place_of_a_file_is_replaced_and_its_target_stays(tmp_path: Path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "a.txt").symlink_to(tmp_path / "precious")
    with replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "precious").read_text() == "precious"
    assert (tmp_path / "a.txt").read_text() == "new"
    assert not (tmp_path / "a.txt").is_symlink()
