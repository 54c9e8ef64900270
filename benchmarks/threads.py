"""How many threads the benchmarks compute with."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

THREADS = min(2, torch.get_num_threads())
"""Two, so that tables of machines with more cores can be compared. `OMP_NUM_THREADS=1` makes it one: where others use
the machine, threads wait for each other more than they compute."""


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Inside, torch computes with that many."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
