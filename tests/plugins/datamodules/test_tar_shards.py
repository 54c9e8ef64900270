"""Shards are found, and indexed as the webdataset library reads them."""

from __future__ import annotations

import io
import itertools
import tarfile
from pathlib import Path

import pytest

from sgm_core.errors import SgmError
from sgm_plugins.datamodules.tar_shards import expand, read_index


def write(path: Path, *members: tuple[str, bytes], **options) -> Path:
    with tarfile.open(path, "w", **options) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def contents(shard: Path) -> list[tuple[str, dict[str, bytes]]]:
    samples, problem = read_index(shard)
    assert problem == ""
    found = []
    for sample in samples:
        fields = {}
        for field in sample.members:
            with sample.open(field) as file:
                fields[field] = file.read()
        found.append((sample.key, fields))
    return found


MEMBERS = [
    ("a/001.jpg", b"one"),
    ("a/001.TXT", b"1" * 700),
    ("a/001.seg.png", b""),
    ("__index__.json", b"{}"),
    ("a/__meta__/x.txt", b"y"),
    ("a/002.jpg", b"two"),
    ("b/002.jpg", b"other"),
    ("no_extension", b"z"),
    ("a.b/003.txt", b"3"),
    (f"{'deep/' * 60}004.txt", b"long names have a header of their own"),
    ("größe.txt", b"4"),
]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_grouped_as_by_the_library(tmp_path, form):
    webdataset = pytest.importorskip("webdataset")
    members = [m for m in MEMBERS if form != tarfile.USTAR_FORMAT or len(m[0]) < 200]
    shard = write(tmp_path / "a.tar", *members, format=form)
    theirs = [
        (sample["__key__"], {key: value for key, value in sample.items() if not key.startswith("__")})
        for sample in webdataset.WebDataset(str(shard), shardshuffle=False, empty_check=False)
    ]
    assert contents(shard) == theirs
    assert len(theirs) >= 5


@pytest.mark.parametrize(
    "pattern", ["{00..03}.tar", "{0,b}-{08..11}.tar", "{2..0}.tar", "x{a,b{0..1}}.tar", "plain.tar", "{7..12}/{a,}.tar"]
)
def test_braces_mean_what_they_mean_to_the_library(tmp_path, monkeypatch, pattern):
    braceexpand = pytest.importorskip("braceexpand")
    monkeypatch.chdir(tmp_path)
    names = [Path(name) for name in braceexpand.braceexpand(pattern)]
    for name in names:
        name.parent.mkdir(exist_ok=True)
        name.touch()
    assert expand(pattern) == names


def test_stars_are_sorted(tmp_path):
    for name in ("b.tar", "a.tar", "a.txt"):
        (tmp_path / name).touch()
    assert expand(f"{tmp_path}/*.tar") == [tmp_path / "a.tar", tmp_path / "b.tar"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("pipe:curl -s http://x/a.tar", "a config runs no commands"),
        ("  pipe:rm -rf /", "a config runs no commands"),
        ("cat a.tar |", "a config runs no commands"),
        ("https://x/{00..99}.tar", "URLs are not read"),
        ("s3://bucket/a.tar", "URLs are not read"),
        ("{x}.tar", "neither"),
        ("a{0..1.tar", "a brace without its other"),
        ("gone-{0..3}.tar", "4 of 4 files do not exist, gone-0.tar the first"),
        ("*.tar", "no such files"),
        ("{0..999999999999}.tar", "more than 250000 files"),
        ("{a,b}" * 60 + ".tar", "more than 250000 files"),
        ("{0.." + "9" * 5000 + "}.tar", "neither"),
        ("{" * 5000 + "a,b" + "}" * 5000, "more than 100 braces"),
    ],
)
def test_what_means_no_local_file_is_refused(tmp_path, monkeypatch, pattern, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SgmError, match=message):
        expand(pattern)


@pytest.mark.parametrize("content", [b"no tar", b"", b"\x1f\x8b" + b"\0" * 600])
def test_a_file_that_is_no_tar_is_refused(tmp_path, content):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(SgmError, match=r"a\.tar: no uncompressed tar file"):
        read_index(tmp_path / "a.tar")


def test_a_compressed_shard_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.txt"))
    with pytest.raises(SgmError, match="no uncompressed tar file"):
        read_index(tmp_path / "a.tar")


def test_a_shard_that_ends_early_gives_what_it_has(tmp_path):
    whole = write(tmp_path / "a.tar", *((f"{i}.txt", b"x" * 1000) for i in range(5))).read_bytes()
    cut = [whole[:length] for length in (512 * 6 + 100, 512 * 6 + 512 + 500, 512 * 9)]
    damaged = whole[: 512 * 6] + b"\xff" * 512 + whole[512 * 7 :]
    for length, content in enumerate([*cut, damaged]):
        (tmp_path / "a.tar").write_bytes(content)
        samples, problem = read_index(tmp_path / "a.tar")
        keys = [sample.key for sample in samples]
        assert keys[:2] == ["0", "1"], length
        assert len(keys) <= 3
        assert problem


def test_a_field_is_a_file_like_any_other(tmp_path):
    content = bytes(range(256)) * 20
    shard = write(tmp_path / "a.tar", ("0.txt", b"before"), ("1.txt", content), ("2.txt", b"after"))
    sample = read_index(shard)[0][1]
    plain = io.BytesIO(content)
    with sample.open("txt") as file:
        for (offset, whence), length in itertools.product(
            [(0, 0), (5000, 0), (-7, 2), (6000, 0), (-100, 1)], [1, 999, -1]
        ):
            assert file.seek(offset, whence) == plain.seek(offset, whence)
            assert file.read(length) == plain.read(length)
            assert file.tell() == plain.tell()
        with pytest.raises(ValueError, match="negative"):
            file.seek(-1)
    assert file.closed
