"""Files of strangers: whatever is in them, there is one kind of error, and it names the file."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sgm_core.errors import SgmError
from sgm_plugins.reading import read_json, read_object, read_table

WHATEVER = settings(derandomize=True, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_json_comes_back_with_or_without_a_mark(tmp_path: Path):
    for text in ('{"a": [1, 2.5, null, "ü"]}', '\ufeff{"a": [1, 2.5, null, "ü"]}'):
        (tmp_path / "a.json").write_text(text, encoding="utf-8")
        assert read_object(tmp_path / "a.json") == {"a": [1, 2.5, None, "ü"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "no JSON"),
        (b'{"a":' * 100_000, "no JSON"),
        (b"9" * 5000, "no JSON"),
        (b"\xff{}", "not a UTF-8 text file"),
        (b"", "no JSON"),
        (b"[1]", "no JSON object, but list"),
        (b"null", "no JSON object, but NoneType"),
    ],
)
def test_what_is_no_object_is_an_error_that_names_the_file(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(SgmError, match=rf"a\.json(:1:1)?: {message}"):
        read_object(tmp_path / "a.json")


@WHATEVER
@given(st.binary(max_size=60))
@example(b'{"a": 1e999}')
@example(b'"\\ud800"')
def test_whatever_bytes_there_are_json_is_read_or_refused(tmp_path: Path, content: bytes):
    (tmp_path / "a.json").write_bytes(content)
    try:
        found = read_json(tmp_path / "a.json")
    except SgmError:
        return
    json.dumps(found)


@WHATEVER
@given(st.binary(max_size=60))
@example(b'\r\x00,\r\n"\rx\n')
@example(b"step,loss\n1," + b"9" * 200_000 + b"\n")
@example(b"step,step\n1,2\n1,2,3\n1\n")
def test_whatever_bytes_there_are_a_table_is_read_or_refused(tmp_path: Path, content: bytes):
    (tmp_path / "a.csv").write_bytes(content)
    try:
        rows = read_table(tmp_path / "a.csv")
    except SgmError:
        return
    assert all(isinstance(key, str) and isinstance(value, str) for row in rows for key, value in row.items())


def test_a_torn_row_is_left_out(tmp_path: Path):
    (tmp_path / "a.csv").write_bytes(b"step,loss\n1,0.5\n2,0.2")
    assert read_table(tmp_path / "a.csv") == [{"step": "1", "loss": "0.5"}]


@pytest.mark.skipif(os.name != "posix", reason="pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    for read in (read_json, read_table):
        with pytest.raises(SgmError, match="pipe: not a regular file"):
            read(tmp_path / "pipe")
        with pytest.raises(SgmError, match="nothing: No such file"):
            read(tmp_path / "nothing")
