"""The heap of the C library."""

import platform

import pytest

from sgm_plugins.tools.defaults import allocator

# what malloc.h says, and what mallopt(3) says of it
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
LARGEST = 32 * 2**20
"""DEFAULT_MMAP_THRESHOLD_MAX of 64 bits: what every glibc takes."""


class Library:
    """A C library that notes how it is called, and takes a threshold up to some size."""

    def __init__(self, most: int) -> None:
        self.most, self.set = most, {}

    def mallopt(self, name: int, value: int) -> int:
        if name == MMAP_THRESHOLD and value > self.most:
            return 0
        self.set[name] = value
        return 1


@pytest.mark.parametrize("most", [LARGEST, 2**40], ids=["old", "new"])
def test_large_tensors_come_from_the_heap_and_the_heap_is_not_given_back(monkeypatch, most):
    library = Library(most)
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: library)
    assert allocator.keep_freed_memory() is True
    assert library.set.keys() == {TRIM_THRESHOLD, MMAP_THRESHOLD}
    assert library.set[MMAP_THRESHOLD] == (LARGEST if most == LARGEST else 2**30)
    assert library.set[TRIM_THRESHOLD] == 2**31 - 1  # the largest int


def test_a_library_that_takes_no_threshold_keeps_nothing(monkeypatch):
    library = Library(0)
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: library)
    assert allocator.keep_freed_memory() is False
    assert library.set == {}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_glibc_takes_what_it_is_told(sgm_forked, tmp_path):
    """In a process of its own: it cannot be taken back."""
    code = "from sgm_plugins.tools.defaults.allocator import keep_freed_memory; print(keep_freed_memory())"
    told = sgm_forked(code=code)
    assert told.wait() == 0, told.err
    assert told.out == "True\n"


def test_where_the_c_library_knows_no_mallopt_nothing_happens(monkeypatch):
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    assert allocator.keep_freed_memory() is False
