"""The benchmark of memory runs, and its rows say what they should."""

import importlib.util
from pathlib import Path

import pytest

import sgm_core

FILE = Path(sgm_core.__file__).parents[1] / "benchmarks" / "memory.py"


@pytest.fixture
def memory():
    spec = importlib.util.spec_from_file_location("benchmark_of_memory", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rows_of_a_small_model(memory):
    table = memory.rows(1, ["tiny"])
    assert [row["hold"] for row in table] == ["<= 1.05", ">= 0.8", "", ""]
    keys = {"what", "ours", "peer", "unit", "ratio", "hold", "peer_name", "note"}
    assert all(row.keys() == keys and row["ratio"].keys() == {"median", "low", "high"} for row in table)
    peak, *_, adam = table
    assert peak["ratio"]["median"] == pytest.approx(peak["ours"] / peak["peer"])
    assert 0.5 < peak["ratio"]["median"] <= 1.05
    assert adam["unit"] == "ms"
