"""The store: what was added comes back, and nothing else ever does."""

import os
import sys
import time
import warnings

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from support.failing_calls import each_call_fails_once

from sgm_plugins.cached.store import CacheReadError, CacheWarning, Store


def key(i: int) -> bytes:
    return i.to_bytes(32, "little")


def rows(*numbers: int, width: int = 3) -> dict:
    return {key(i): (torch.full((1, width), float(i)), torch.tensor([[i]], dtype=torch.bfloat16)) for i in numbers}


def same(a, b) -> bool:
    return len(a) == len(b) and all(x.dtype == y.dtype and torch.equal(x, y) for x, y in zip(a, b, strict=True))


def filled(folder, *numbers) -> Store:
    store = Store(folder, about={"of": "a test"})
    store.add(rows(*numbers))
    store.flush()
    return store


def keys_on_disk(folder) -> list[bytes]:
    found = []
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            found += [bytes(row.tolist()) for row in file.get_tensor("keys")]
    return found


def test_rows_come_back_with_their_types_in_this_process_and_in_the_next(tmp_path):
    store = Store(tmp_path / "s")
    store.add(rows(1, 2))
    assert same(store.get([key(2)])[0], rows(2)[key(2)])  # not written yet
    assert not (tmp_path / "s").exists()
    store.flush()
    for reader in (store, Store(tmp_path / "s")):
        one, none, two = reader.get([key(1), key(7), key(2)])
        assert none is None
        assert same(one, rows(1)[key(1)])
        assert same(two, rows(2)[key(2)])
        assert len(reader) == 2


def test_rows_of_several_layouts_live_side_by_side(tmp_path):
    store = Store(tmp_path)
    store.add(rows(1) | rows(2, width=5) | {key(3): (torch.tensor([True, False]),)})
    store.flush()
    again = Store(tmp_path)
    assert [tuple(row[0].shape) for row in again.get([key(1), key(2), key(3)])] == [(1, 3), (1, 5), (2,)]


def test_the_folder_says_what_it_is_of(tmp_path):
    filled(tmp_path, 1)
    assert "a test" in (tmp_path / "about.json").read_text()


def test_a_reader_sees_what_another_writes_later_and_nobody_writes_a_row_twice(tmp_path):
    one, two = Store(tmp_path), Store(tmp_path)
    assert two.get([key(1)]) == [None]
    one.add(rows(1, 2))
    two.add(rows(2, 3))
    one.flush()
    assert two.get([key(1)])[0] is not None
    two.flush()
    assert sorted(keys_on_disk(tmp_path)) == [key(1), key(2), key(3)]


@pytest.mark.parametrize("size", [0, 5, 100, -1])
def test_a_truncated_file_is_dropped_and_its_rows_are_missing(tmp_path, size):
    filled(tmp_path, 1, 2)
    filled(tmp_path, 3)
    path = sorted(tmp_path.glob("*.safetensors"))[0]
    os.truncate(path, size if size >= 0 else path.stat().st_size - 1)
    store = Store(tmp_path)
    with pytest.warns(CacheWarning, match=f"{path.name}.*dropped"):
        assert [row is None for row in store.get([key(1), key(2), key(3)])] == [True, True, False]
    assert not path.exists()
    store.add(rows(1, 2))
    store.flush()
    assert len(Store(tmp_path)) == 3


def test_whatever_byte_is_garbled_no_wrong_row_comes_back(tmp_path):
    filled(tmp_path, 1, 2)
    (path,) = tmp_path.glob("*.safetensors")
    good, lost = path.read_bytes(), 0
    for position in range(len(good)):
        path.write_bytes(good[:position] + bytes([good[position] ^ 0x01]) + good[position + 1 :])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CacheWarning)
            found = Store(tmp_path).get([key(1), key(2)])
        for i, row in zip((1, 2), found, strict=True):
            lost += row is None
            assert row is None or same(row, rows(i)[key(i)])
    assert lost > len(good) / 3  # of data, keys and sums, where every byte counts


def test_another_file_that_is_in_the_folder_is_no_row(tmp_path):
    torch.save({}, tmp_path / "x.safetensors")
    with pytest.warns(CacheWarning):
        assert Store(tmp_path).get([key(1)]) == [None]


def test_what_a_killed_process_left_is_swept_and_was_never_read(tmp_path):
    tmp_path.joinpath(".1.safetensors.77.tmp").write_bytes(b"half a file")
    assert Store(tmp_path).get([key(1)]) == [None]
    filled(tmp_path, 1)
    assert not list(tmp_path.glob(".*.tmp"))


def test_rows_are_written_when_a_second_has_passed_or_many_bytes_wait(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    store = Store(tmp_path)
    store.add(rows(1))
    assert not keys_on_disk(tmp_path)
    clock[0] = 1.1
    store.add(rows(2))
    assert len(keys_on_disk(tmp_path)) == 2
    clock[0] = 101.1
    store.flush()
    clock[0] = 103.1  # later a kill may cost a twentieth of the work, 5 s here
    store.add(rows(3))
    assert len(keys_on_disk(tmp_path)) == 2
    monkeypatch.setattr("sgm_plugins.cached.store.LARGEST_SHARD", 10)
    store.add(rows(4))
    assert len(keys_on_disk(tmp_path)) == 4


def test_rows_are_mapped_not_copied(tmp_path):
    store = Store(tmp_path)
    store.add({key(i): (torch.zeros(1, 1000),) for i in range(100)})
    store.flush()
    a, b = Store(tmp_path).get([key(0), key(1)])
    assert a[0].untyped_storage().data_ptr() == b[0].untyped_storage().data_ptr()


@pytest.mark.skipif(os.name != "posix", reason="limits of a process")
def test_a_full_disk_is_a_warning_and_what_was_kept_before_stays(tmp_path):
    from support.small_disk import files_of_at_most

    small, large = {bytes([1]) * 32: (torch.ones(4),)}, {bytes([2]) * 32: (torch.ones(1 << 16),)}
    store = Store(tmp_path / "c")
    store.add(small)
    store.flush()
    store.add(large)
    with files_of_at_most(1 << 16), pytest.warns(CacheWarning, match="no more outputs are kept here: File too large"):
        store.flush()
    assert store.failure is not None
    store.add({bytes([3]) * 32: (torch.ones(4),)})
    assert store.get([bytes([1]) * 32, bytes([2]) * 32, bytes([3]) * 32])[1:] == [None, None]
    assert len(Store(tmp_path / "c")) == 1
    assert not list(tmp_path.rglob(".*.tmp"))


@pytest.mark.skipif(sys.platform != "linux", reason="system calls of Linux")
def test_whatever_call_of_a_read_fails_once_no_file_is_lost(tmp_path):
    filled(tmp_path, 1, 2)
    filled(tmp_path, 3)
    files = sorted(tmp_path.iterdir())
    content = [path.read_bytes() for path in files]

    def read() -> str:
        found = Store(tmp_path).get([key(1), key(2), key(3)])
        return str([row is not None and same(row, rows(i)[key(i)]) for i, row in enumerate(found, 1)])

    failed = list(each_call_fails_once(read, [tmp_path, *files]))
    assert failed[0].outcome == "[True, True, True]"
    assert {one.call for one in failed} >= {"openat", "getdents64", "mmap", "fstat"}
    wrong = [one for one in failed if one.outcome not in ("[True, True, True]", "CacheReadError")]
    assert not wrong
    assert sum(one.outcome == "CacheReadError" for one in failed) > 20
    assert [path.read_bytes() for path in files] == content


def test_what_the_machine_cannot_read_now_is_an_error_and_stays(tmp_path, monkeypatch):
    filled(tmp_path, 1)

    def fail(*args, **kwargs):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("sgm_plugins.cached.store.safe_open", fail)
        with pytest.raises(CacheReadError, match="cannot be read now: out of memory"):
            Store(tmp_path).get([key(1)])
        with pytest.warns(CacheWarning, match="no more outputs are kept here"):
            filled(tmp_path, 2)
    assert Store(tmp_path).get([key(1)]) != [None]


@pytest.mark.skipif(os.name != "posix", reason="needs pipes and links")
def test_only_regular_files_are_opened_and_only_own_ones_deleted(tmp_path):
    filled(tmp_path / "c", 1)
    (shard,) = (tmp_path / "c").glob("*.safetensors")
    others = [tmp_path / "c" / f"{name}.safetensors" for name in ("pipe", "folder", "link", "model", "page")]
    os.mkfifo(others[0])
    others[1].mkdir()
    others[2].symlink_to(shard)
    save_file({"weight": torch.ones(3)}, others[3])
    others[4].write_text("<!doctype html>" * 100)
    with pytest.warns(CacheWarning) as told:
        assert len(Store(tmp_path / "c")) == 1
    assert sorted(str(one.message).partition(".safetensors")[0].rpartition("/")[2] for one in told) == sorted(
        path.stem for path in others
    )
    assert all("passed over" in str(one.message) for one in told)
    assert all(path.exists() for path in others)


@pytest.mark.skipif(os.name != "posix", reason="permissions")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_files_of_a_cache_follow_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        filled(tmp_path, 1)
    finally:
        os.umask(before)
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json", ""}  # "": the lock
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {mode}
