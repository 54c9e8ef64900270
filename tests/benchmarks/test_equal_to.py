"""The page of equality, and that it would say what is not equal."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support.benchmark import benchmark

pytest.importorskip("diffusers")
pytest.importorskip("scipy", reason="the formulas integrate with scipy")

pytestmark = pytest.mark.filterwarnings("ignore:.*__array:DeprecationWarning")  # of the schedulers

equal_to = benchmark("equal_to")


def run(monkeypatch: pytest.MonkeyPatch, entries: dict[str, object], *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["equal_to.py", *arguments])
    monkeypatch.setattr(equal_to, "entries", lambda: entries)
    return equal_to.main()


def test_the_page_has_a_number_or_a_reason_in_every_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    some = {name: equal_to.entries()[name] for name in ("euler_edm", "dpmpp_2m", "lcm")}
    assert run(monkeypatch, some, "--out", str(tmp_path / "page.md")) == 0
    page = (tmp_path / "page.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith(("| euler_edm", "| dpmpp_2m", "| lcm"))]
    assert len(rows) == 9
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) == 1 + len(equal_to.KINDS)
        assert all(cells)
    assert "diffusers 0" in page
    assert "the scheduler starts at a finite level" in page
    assert "all are equal within the bounds" in capsys.readouterr().out


def test_another_method_is_named_and_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    entries = equal_to.entries()
    swapped = {"heun_edm": entries["heun_edm"]._replace(formula=entries["euler_edm"].formula)}
    assert run(monkeypatch, swapped) == 1
    assert "not equal: heun_edm, edm; heun_edm, ddpm;" in capsys.readouterr().out
