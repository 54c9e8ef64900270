"""Our numbers are the reference's: one test per recorded case."""

from __future__ import annotations

from pathlib import Path

import pytest
from golden.conftest import HERE
from golden.harness import run
from golden.reference import NotBuiltError

MAY_BE_MISSING: frozenset[str] = frozenset()
"""The recorded cases that ours cannot be compared with. There is none: a case that stops being compared fails."""


def test_ours_gives_the_numbers_of_the_reference(case_folder: Path, left_out: dict[str, dict[str, str]]) -> None:
    try:
        case = run(case_folder)
    except NotBuiltError as missing:
        if case_folder.parent == HERE and case_folder.name not in MAY_BE_MISSING:
            raise
        pytest.skip(str(missing))
    left_out[case.name] = case.left_out
