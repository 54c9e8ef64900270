"""Texts of others are read exactly, or refused with the file and the place."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from sgm_core.files import BadFileError, as_text, parse_json, read_bytes, read_text

TEXT = "a fox, été, 狐\nthe second line\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_utf_8_and_marked_utf_16_are_read_with_any_line_end(tmp_path, encoding, end):
    path = tmp_path / "a.txt"
    path.write_bytes(TEXT.replace("\n", end).encode(encoding))
    assert read_text(path) == TEXT


def test_big_endian_utf_16_is_known_by_its_mark():
    assert as_text(b"\xfe\xff" + TEXT.encode("utf-16-be"), "a") == TEXT


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ("a fox\n狐".encode("shift_jis"), "a.txt:2:1"),
        ("un été".encode("latin-1"), "a.txt:1:4"),
        ("a “fox”".encode("cp1252"), "a.txt:1:3"),
        ("лиса".encode("koi8-r"), "a.txt:1:1"),
        ("a fox".encode("utf-16-le"), "a.txt:1:2"),
        ("a fox".encode("utf-16-be"), "a.txt:1:1"),
        ("a fox".encode("utf-32"), "a.txt:1:1"),
        ("狐".encode("iso2022_jp"), "a.txt:1:1"),
        ("a fox".encode("utf-16")[:-1], "a.txt:1:5"),
        (b"\xff\xfe\x00\xd8a\x00", "a.txt:1:1"),
        (b"\xef\xbb\xbfcaf\xe9", "a.txt:1:4"),
        (b"a\xed\xa0\x80b", "a.txt:1:2"),
        (b"\x89PNG\r\n\x1a\n", "a.txt:1:1"),
    ],
)
def test_any_other_encoding_is_refused_with_its_place(tmp_path, content, place):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(BadFileError, match="not a UTF-8 text file: ") as caught:
        read_text(path)
    assert caught.value.place == f"{tmp_path}/{place}"


def test_other_separators_end_no_line():
    text = "one\u2028still\u0085it\x0c\x0b\u2029end"
    assert as_text(text.encode(), "a").split("\n") == [text]


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for path in (tmp_path / "pipe", tmp_path / "socket", Path("/dev/zero")):
            with pytest.raises(BadFileError, match="not a regular file"):
                read_bytes(path)
    for path, error in ((tmp_path / "none", FileNotFoundError), (tmp_path, IsADirectoryError)):
        with pytest.raises(error):
            read_bytes(path)


def test_a_file_above_the_limit_is_refused_before_it_fills_the_memory(tmp_path):
    path = tmp_path / "a.txt"
    with path.open("wb") as file:
        file.truncate(2**43)
    with pytest.raises(BadFileError, match="larger than the 16777216 bytes"):
        read_text(path)
    path.write_bytes(b"12345")
    assert read_bytes(path, 5) == b"12345"
    with pytest.raises(BadFileError, match="larger than the 4 bytes"):
        read_bytes(path, 4)


@pytest.mark.parametrize("text", ["", "{", "[" * 200_000, '{"a":' * 200_000, "1" * 10_000, '"\x00"', "nul"])
def test_what_is_no_json_is_one_error(text):
    with pytest.raises(BadFileError, match=r"^a\.json:3: no JSON: "):
        parse_json(text, "a.json:3")
