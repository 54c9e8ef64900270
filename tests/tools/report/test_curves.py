"""Curves hold what the file says, spikes too, in bounded memory, and read on while it grows."""

import json
import math

from sgm_core.runs.metrics import JSONLMetrics
from sgm_plugins.tools.report.curves import CURVES, POINTS, Curves, thinned


def test_metrics_become_curves_and_what_is_beside_them_does_not(tmp_path):
    metrics = JSONLMetrics(tmp_path)
    metrics.log_metrics({"loss": 1.0, "epoch": 0, "global_step": 4.0, "name": "text", "flag": True}, 4)
    metrics.log_metrics({"loss": math.nan, "loss/sigma_0.1": math.inf, "epoch": 3}, 5)
    curves = Curves(tmp_path / "metrics.jsonl")
    curves.read()
    found = curves.curves
    assert list(found) == ["loss", "loss/sigma_0.1"]
    assert found["loss"][0] == (4, 1.0)
    assert math.isnan(found["loss"][1][1])
    assert found["loss/sigma_0.1"] == [(5, math.inf)]
    assert curves.last_step == 5


def test_a_growing_file_is_read_on_and_the_joined_last_line_counts_once(tmp_path):
    metrics, curves = JSONLMetrics(tmp_path), Curves(tmp_path / "metrics.jsonl")
    curves.read()
    assert curves.curves == {}
    assert curves.last_step is None
    for step in range(5):
        metrics.log_metrics({"loss": float(step)}, step)
        curves.read()
        metrics.log_metrics({"val_loss": 10.0 * step}, step)
        curves.read()
        curves.read()
    whole = [(step, float(step)) for step in range(5)]
    assert curves.curves == {"loss": whole, "val_loss": [(step, 10 * y) for step, y in whole]}


def test_a_torn_line_waits_and_a_broken_one_is_passed_over(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 0, "loss": 1}\nnonsense\n[1]\n{"step": 1, "lo')
    curves = Curves(file)
    curves.read()
    assert curves.curves == {"loss": [(0, 1.0)]}
    with file.open("a") as out:
        out.write('ss": 2}\n')
    curves.read()
    assert curves.curves == {"loss": [(0, 1.0), (1, 2.0)]}


def test_a_file_that_was_cut_is_read_anew(tmp_path):
    metrics, curves = JSONLMetrics(tmp_path), Curves(tmp_path / "metrics.jsonl")
    for step in range(9):
        metrics.log_metrics({"loss": float(step)}, step)
    curves.read()
    metrics.truncate_after(2)
    curves.read()
    assert [step for step, _ in curves.curves["loss"]] == [0, 1, 2]


def test_a_long_curve_is_thinned_and_keeps_its_spikes_its_ends_and_its_holes(tmp_path):
    values = [math.sin(i / 500) for i in range(50_000)]
    values[12_345], values[23_456], values[34_567] = 99.0, -99.0, math.nan
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for step, value in enumerate(values):
            file.write(json.dumps({"step": step, "loss": value if math.isfinite(value) else "NaN"}) + "\n")
    curves = Curves(tmp_path / "metrics.jsonl")
    curves.read()
    found = curves.curves["loss"]
    assert POINTS / 3 < len(found) <= POINTS
    assert [step for step, _ in found] == sorted({step for step, _ in found})
    assert {(12_345, 99.0), (23_456, -99.0), (0, 0.0)} <= set(found)
    assert found[-1] == (49_999, values[-1])
    assert [step for step, value in found if math.isnan(value)] == [34_567]
    assert len(curves._kept["loss"]) < 4 * POINTS  # not in memory either


def test_short_curves_are_left_as_they_are():
    points = [(i, float(i)) for i in range(POINTS)]
    assert thinned(points) == points


def test_too_many_curves_are_left_out_by_name(tmp_path):
    row = {f"m{i:03}": 1.0 for i in range(CURVES + 3)}
    metrics, curves = JSONLMetrics(tmp_path), Curves(tmp_path / "metrics.jsonl")
    for step in range(2):
        metrics.log_metrics(row, step)
        curves.read()
        assert len(curves.curves) == CURVES
        assert curves.left_out == {f"m{CURVES + i:03}" for i in range(3)}
