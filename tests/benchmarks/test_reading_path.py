"""The count of what a newcomer reads: it follows a real run to the formula, and the page in docs/ shows its form."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.places import BENCHMARKS, ROOT


@pytest.mark.slow
def test_the_path_leads_from_the_command_to_the_formula(tmp_path: Path) -> None:
    page = tmp_path / "architecture.md"
    page.write_text((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"), encoding="utf-8")
    command = [sys.executable, str(BENCHMARKS / "reading_path.py"), "--docs", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    *stack, on_stack, executed = done.stdout.splitlines()
    assert "sgm_core/cli/app.py: main" in stack[0]
    assert stack[-1].endswith("sgm_plugins/scalings.py: EDMScaling.__call__")
    files, lines = counts(on_stack)
    assert files == len(stack)
    assert lines == sum(int(line.split()[0]) for line in stack)
    assert (files, lines) < counts(executed)
    assert list(tmp_path.iterdir()) == [page]
    assert f" {files} files, {lines:,} lines |\n" in page.read_text(encoding="utf-8")


def counts(line: str) -> tuple[int, int]:
    """`on the stack   9 files, 1,923 lines` -> 9, 1923"""
    files, lines = re.search(r"(\d+) files, ([\d,]+) lines", line).groups()  # type: ignore[union-attr]
    return int(files), int(lines.replace(",", ""))


def test_the_page_has_both_numbers_before_and_after() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = page.partition("\n## A newcomer's path\n")[2]
    rows = [line for line in section.splitlines() if " files, " in line]
    assert len(rows) == 2
    for row in rows:
        before, after = row.strip("| ").split(" | ")[1:]
        assert counts(before)[1] > 0
        assert counts(after)[1] > 0
