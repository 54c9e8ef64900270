"""The heap of the C library."""

import platform
import subprocess
import sys

import pytest

STEPS = """
import resource, sys
import torch
from sgm_core.runs.allocator import keep_freed_memory
kept = sys.argv[1] == "keep" and keep_freed_memory()
def step():
    activations = [torch.zeros(1 << 20) for _ in range(16)]
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    step()
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> tuple[int, int]:
    done = subprocess.run([sys.executable, "-c", STEPS, how], capture_output=True, text=True, check=True)
    kept, count = map(int, done.stdout.split())
    return kept, count


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_memory_that_was_freed_is_taken_again_without_the_system():
    """Eight steps of 16 tensors of 4 MB: by default the system gives the pages of nearly each of them anew."""
    assert faults("keep")[0] == 1
    _, by_default = faults("leave")
    _, kept = faults("keep")
    assert by_default > 1000
    assert kept < by_default / 20


def test_where_the_c_library_knows_no_mallopt_nothing_happens(monkeypatch):
    from sgm_core.runs import allocator

    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    assert allocator.keep_freed_memory() is False
