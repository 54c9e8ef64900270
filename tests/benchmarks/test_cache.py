"""The benchmark of caching runs, and would say if the losses differed."""

import re
import subprocess
import sys

import pytest
from support.places import ROOT

BENCHMARK = ROOT / "benchmarks" / "cache.py"


@pytest.mark.slow
def test_it_prints_the_ratio_of_two_trainings_with_the_same_losses(tmp_path):
    sizes = ["--width", "64", "--depth", "2", "--steps", "3", "--turns", "1"]
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), *sizes], capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "losses of 3 steps equal bit for bit" in done.stdout
    assert "1797 entries" in done.stdout
    assert re.search(r"ratio: \d+\.\d of medians", done.stdout)
    assert not list(tmp_path.iterdir())
