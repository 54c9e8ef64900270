"""The measured order of the samplers: a table, a plot, and an exit code that says whether theory is right."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image
from support.benchmark import benchmark

sampler_order = benchmark("sampler_order")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["sampler_order.py", *arguments])
    return sampler_order.main()


def test_it_prints_a_row_for_each_sampler_and_draws_a_plot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--out", str(tmp_path / "order.png")) == 0
    _, *rows = capsys.readouterr().out.splitlines()
    measured = {row[:32].strip(): row.split()[-2:] for row in rows}
    assert measured.keys() == sampler_order.SAMPLERS.keys()
    for name, (theory, order) in measured.items():
        assert int(theory) == sampler_order.SAMPLERS[name].order
        assert float(order) == pytest.approx(int(theory), abs=sampler_order.SLACK)
    with Image.open(tmp_path / "order.png") as image:
        assert len(image.getcolors(1 << 20)) > len(sampler_order.PLOTTED)


@pytest.mark.parametrize("claim", [1, 3])
def test_another_order_than_theory_says_is_named_and_fails(
    claim: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = sampler_order.SAMPLERS["heun_edm"]._replace(order=claim)
    monkeypatch.setattr(sampler_order, "SAMPLERS", {"heun_edm": entry})
    assert run(monkeypatch) == 1
    assert "of another order than theory says: heun_edm" in capsys.readouterr().out
