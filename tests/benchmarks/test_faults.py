"""The benchmark of faults runs, each row a little: real kills amid real writes, a real full disk, a real nan."""

import json
import os
import subprocess
import sys

import pytest
from support.places import ROOT

BENCHMARK = ROOT / "benchmarks" / "faults.py"


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_nothing_is_lost(tmp_path):
    command = [sys.executable, str(BENCHMARK), "saving=3", "kills=2", "flips=3", "files", "disk=1", "nan=1"]
    done = subprocess.run(
        [*command, "--json", "table.json"], capture_output=True, text=True, timeout=500, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["name"]: row for row in json.loads((tmp_path / "table.json").read_text())["rows"]}
    assert [row["failures"] for row in rows.values()] == [0] * 6
    tries = {name: row["tries"] for name, row in rows.items() if not row["skipped"]}
    expected = {"saving": 3, "kills": 2, "flips": 3, "files": 15, "disk": 2, "nan": 1}
    assert tries.items() <= expected.items()
    assert {"kills", "flips", "files", "nan"} <= tries.keys()  # the others take another file system, or root
    assert all(f"{row['tries']:6} {row['failures']:9}" in done.stdout for row in rows.values())
    assert [path.name for path in tmp_path.iterdir()] == ["table.json"]


def test_a_row_that_is_none_is_a_mistake_of_usage(python):
    for row in ("nope", "flips=0", "flips=x"):
        done = python(BENCHMARK, row)
        assert done.returncode == 2
        assert "rows are saving, kills" in done.stderr
