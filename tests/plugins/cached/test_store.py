"""The store: what was added comes back, and nothing else ever does."""

import os
import time
import warnings

import pytest
import torch
from safetensors import safe_open

from sgm_plugins.cached.store import CacheWarning, Store


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
