"""The benchmark of memory runs, and its rows say what they should."""

import importlib

import pytest
from support.places import ROOT

BENCHMARKS = ROOT / "benchmarks"


@pytest.mark.slow
def test_rows_of_a_small_model(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    table = list(importlib.import_module("memory").rows(1, ["tiny"]))
    assert [row.hold for row in table] == ["<= 1.05", ">= 0.8", ">= 0.8", ""]
    peak, *processes, adam = table
    assert peak.ratio["median"] == pytest.approx(peak.ours / peak.peer)
    assert 0.5 < peak.ratio["median"] <= 1.05
    assert all(row.peer == peak.ours for row in processes)  # the estimate
    assert adam.unit == "ms"
