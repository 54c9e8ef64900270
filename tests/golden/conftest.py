"""`pytest tests/golden --golden-dir DIR` compares with the cases of another folder of the same format."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))  # `golden.harness` and `golden.areas`: pytest's importlib mode adds nothing itself

from golden.harness import find_cases  # noqa: E402 - needs the line above

LEFT_OUT = pytest.StashKey[dict[str, dict[str, str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden-dir", type=Path, default=HERE, help="folder of golden cases (default: tests/golden)")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LEFT_OUT] = {}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case_folder" in metafunc.fixturenames:
        # the default: when pytest starts above this folder, it reads this file after the command line
        folder = metafunc.config.getoption("--golden-dir", default=HERE)
        cases = find_cases(folder)
        metafunc.parametrize("case_folder", cases, ids=[case.name for case in cases])


@pytest.fixture
def left_out(request: pytest.FixtureRequest) -> dict[str, dict[str, str]]:
    """{case: {tensor: what is missing}}, of cases that were compared in part; listed after the run."""
    return request.config.stash.setdefault(LEFT_OUT, {})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    counts: dict[str, int] = {}
    for tensors in config.stash.get(LEFT_OUT, {}).values():
        for reason in tensors.values():
            counts[reason] = counts.get(reason, 0) + 1
    if counts:
        terminalreporter.write_sep("-", "golden tensors not compared")
        for reason, count in sorted(counts.items()):
            terminalreporter.write_line(f"{count:4d}  {reason}")
