"""The table of ratios: it runs, it says which holds are reached, and the page in docs/ shows what its JSON holds."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image
from support.places import ROOT

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a table of tiny networks."""
    pytest.importorskip("diffusers")
    folder = tmp_path_factory.mktemp("speed")
    command = [sys.executable, str(BENCHMARKS / "speed.py"), "--tiny", "--rounds", "1", "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "said").write_text(done.stdout)
    return folder


@pytest.mark.slow
def test_every_part_has_rows_and_both_sides_did_the_same(table: Path) -> None:
    result = json.loads((table / "speed.json").read_text())
    for begin in (
        "training step",
        "EMA update",
        "EMA swap",
        "step of Trainer.fit",
        "step of sgm train",
        "3 guided steps",
    ):
        rows = [row for row in result["rows"] if row["what"].startswith(begin)]
        assert rows, begin
        assert all(row["peer"] > 0 for row in rows)
    assert [row["ours"] for row in result["rows"] if row["unit"] == "MB"] == [0]
    said = (table / "said").read_text().splitlines()
    assert sum(line.startswith("| ") for line in said) == 1 + len(result["rows"])
    assert {path.name for path in table.iterdir()} == {"speed.json", "speed.png", "said"}


@pytest.mark.slow
def test_a_page_gets_the_table_of_a_file(table: Path, tmp_path: Path) -> None:
    (tmp_path / "speed.md").write_text((ROOT / "docs" / "speed.md").read_text())
    command = [
        sys.executable,
        str(BENCHMARKS / "speed.py"),
        "--from",
        str(table / "speed.json"),
        "--docs",
        str(tmp_path),
    ]
    subprocess.run(command, check=True, timeout=120)
    page = (tmp_path / "speed.md").read_text()
    assert "3 guided steps" in page
    assert page.startswith("# Speed\n")
    assert json.loads((tmp_path / "speed.json").read_text()) == json.loads((table / "speed.json").read_text())
    with Image.open(tmp_path / "speed.png") as image:
        assert len(image.getcolors(1 << 20)) > 4


def test_the_page_in_docs_shows_the_file_beside_it(module: Any, tmp_path: Path) -> None:
    speed_page: ModuleType = module("speed_page")
    result = json.loads((ROOT / "docs" / "speed.json").read_text())
    assert not result["tiny"]
    copy = tmp_path / "speed.md"
    copy.write_text((ROOT / "docs" / "speed.md").read_text())
    speed_page.write(result, copy)
    assert copy.read_text() == (ROOT / "docs" / "speed.md").read_text()


def test_a_page_without_a_place_for_it_is_refused(module: Any, tmp_path: Path) -> None:
    page = tmp_path / "speed.md"
    page.write_text("# Speed\n")
    with pytest.raises(ValueError, match="has no"):
        module("speed_page").write({}, page)
    assert page.read_text() == "# Speed\n"


@pytest.mark.parametrize(
    ("hold", "ratio", "held"),
    [(">= 1.3", 4, True), (">= 4.1", 4, False), ("<= 0.3", 0.25, True), ("<= 0.2", 0.25, False), ("", 4, None)],
)
def test_a_ratio_is_of_the_peer_and_of_a_limit_the_other_way_round(
    module: Any, hold: str, ratio: float, held: bool | None
) -> None:
    row = module("rows").compared("work", [1.0, 2.0, 4.0], [4.0, 8.0, 16.0], "s", "peer", hold)
    assert row.ratio == {"median": ratio, "low": ratio, "high": ratio}
    assert row.held is held
    assert (row.ours, row.peer) == (2, 8)


def test_work_is_timed_per_call_and_without_what_comes_before(module: Any) -> None:
    calls: list[str] = []
    work = module("race").Work(lambda: calls.append("work"), times=3, before=lambda: calls.append("before"))
    assert work.sample().seconds > 0
    assert calls == ["before", "work", "work", "work"]


def test_memory_is_counted_where_it_is_taken(module: Any) -> None:
    allocated = module("averaging").allocated
    kept = torch.ones(1000, 1000)

    def twice() -> None:
        (kept + 1).sum()
        (kept + 2).sum()

    assert 4e6 <= allocated(twice) < 4.1e6
    assert allocated(lambda: kept.view(-1)) == 0
