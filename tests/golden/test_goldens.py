"""Our numbers are the reference's: one test per recorded case."""

from __future__ import annotations

from pathlib import Path

import pytest
from golden.harness import run
from golden.reference import NotBuiltError


def test_ours_gives_the_numbers_of_the_reference(case_folder: Path, left_out: dict[str, dict[str, str]]) -> None:
    try:
        case = run(case_folder)
    except NotBuiltError as missing:
        pytest.skip(str(missing))
    left_out[case.name] = case.left_out
