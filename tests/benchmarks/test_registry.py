"""The benchmark of names and configs runs, its contenders do the same work, and what it counts holds."""

import json
import subprocess
import sys

import pytest
from support.places import ROOT

BENCHMARK = ROOT / "benchmarks" / "registry.py"


@pytest.mark.slow
def test_it_compares_like_with_like_and_what_is_counted_holds(tmp_path):
    # with the peers that this interpreter has: importlib.metadata and pluggy
    table = tmp_path / "table.json"
    command = [sys.executable, str(BENCHMARK), "--tiny", "--peers", sys.executable, "--json", str(table)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(table.read_text())["rows"]
    peers = ("sgm", "importlib.metadata", "pluggy")
    assert [row for row in rows if row["value"] is None and row["who"].startswith(peers)] == []
    assert [row for row in rows if row["note"].startswith("ANOTHER OUTCOME")] == []
    assert sum(row["ratio"] is not None for row in rows) >= 10
    counted = [row for row in rows if row["hold"] is not None and not row["unit"] and "cost of" not in row["what"]]
    assert len(counted) == 4
    assert [row["what"] for row in counted if row["verdict"].startswith("MISSED")] == []
