import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from sgm_core.files import inside, replacing, sweep


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


@pytest.mark.skipif(os.name != "posix", reason="links")
def test_a_strangers_name_stays_in_the_folder_also_through_links(tmp_path: Path):
    folder, outside = tmp_path / "of a stranger", tmp_path / "mine.txt"
    (folder / "sub").mkdir(parents=True)
    outside.write_text("mine")
    for name in ("a.txt", "sub/b.txt"):
        (folder / name).write_text("theirs")
    (folder / "within").symlink_to(folder / "sub" / "b.txt")
    (folder / "up").symlink_to("..")
    (folder / "out").symlink_to(outside)
    (folder / "chain").symlink_to("out")
    (folder / "loop").symlink_to("loop")
    for name in ("a.txt", "sub/b.txt", "sub/../a.txt", "within", "new.txt"):
        assert inside(folder, name) == folder / name
    refused = [
        "../mine.txt",
        str(outside),
        "out",
        "chain",
        "up/mine.txt",
        "sub/../../mine.txt",
        "loop",
        "a\0",
    ]
    for name in [*refused, 5, None, ["a.txt"]]:
        with pytest.raises(ValueError, match="is not the name of a file in this folder"):
            inside(folder, name)
    assert inside(folder, "out", tmp_path) == folder / "out"


@settings(derandomize=True, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    links=st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["..", ".", "a", "b", "../..", "a/..", "c/d"]))),
    name=st.lists(st.sampled_from(["a", "b", "c", "d", "..", ".", "/"]), min_size=1, max_size=5),
)
@pytest.mark.skipif(os.name != "posix", reason="links")
def test_whatever_links_there_are_what_is_opened_lies_in_the_folder(tmp_path_factory, links, name):
    folder = tmp_path_factory.mktemp("tree") / "x" / "root"
    folder.mkdir(parents=True)
    for link, target in links:
        if not (folder / link).is_symlink():
            (folder / link).symlink_to(target)
    try:
        found = inside(folder, "/".join(name))
    except ValueError:
        return
    assert os.path.realpath(found).startswith(os.path.realpath(folder))
