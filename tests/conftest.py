"""What the tests of every part may use, and what decides in which tier a test is. CONTRIBUTING.md has the tiers."""

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

import hypothesis
import pytest
from support.processes import Forked, Running, Started, answers

from sgm_core.testing.fixtures import make_distribution, register

__all__ = ["make_distribution", "register"]

# The same examples each time, so that a commit does not fail by the chance of another's. `make fuzz` draws new ones;
# what it finds becomes an `@example`. No deadlines: a busy machine is no fault of ours.
hypothesis.settings.register_profile("fixed", derandomize=True, database=None, deadline=None)
hypothesis.settings.register_profile("fuzz", derandomize=False, print_blob=True, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

STARTS_TORCH = {"sgm_started", "python", "one_after_another"}
"""Fixtures that start an interpreter which imports torch: 5 to 7 seconds of CPU each time."""

INSTALLED = {"fresh", "wheel"}
"""Fixtures of the whole session: one virtual environment, into which pip installs torch and all the rest."""


@pytest.fixture(autouse=True)
def _bugs_are_failures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception that a command did not expect fails the test in place of being reported."""
    if request.node.get_closest_marker("reports_bugs") is None:

        def fail(error: BaseException, given: Sequence[str]) -> int:
            raise error

        monkeypatch.setattr("sgm_core.cli.app.report_bug", fail)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cpu-limit", type=float, default=None, metavar="SECONDS",
                     help="fail a test that takes more CPU, with the processes that it waits for")  # fmt: skip
    parser.addoption("--cpu-times", default=None, metavar="FILE", help="append the CPU seconds of each test to a file")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[object]:
    """What is imported and collected stays to the end: the garbage collector need not look through it ever again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_itemcollected(item: pytest.Item) -> None:
    fixtures = set(getattr(item, "fixturenames", ()))
    if STARTS_TORCH & fixtures and not item.get_closest_marker("essential"):
        item.add_marker(pytest.mark.process)
    if group := _shared_by(item, fixtures):
        item.add_marker(pytest.mark.xdist_group(group))


def _shared_by(item: pytest.Item, fixtures: set[str]) -> str | None:
    """The group of tests that share something with this one: another worker would make it again."""
    if INSTALLED & fixtures:
        return "fresh"
    found = item.session._fixturemanager.getfixturedefs
    scopes = {made[-1].scope for name in fixtures if (made := found(name, item))}
    return str(item.path) if "module" in scopes else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    before = _cpu_seconds()
    done = yield
    if file := item.config.getoption("--cpu-times"):
        with open(file, "a") as log:  # noqa: PTH123 - appended by several workers
            log.write(f"{_cpu_seconds() - before:.2f} {item.nodeid}\n")
    return done


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    before = _cpu_seconds()
    yield
    limit = item.config.getoption("--cpu-limit")
    marked = any(item.get_closest_marker(name) for name in ("slow", "process", "essential"))
    if limit is not None and not marked and (took := _cpu_seconds() - before) > limit:
        pytest.fail(f"{took:.1f} s of CPU: mark it `slow`, or make it smaller")


def _cpu_seconds() -> float:
    """Of this process and of the children that it has waited for. A forked command is a child of its server."""
    return sum(os.times()[:4])


@pytest.fixture
def sgm_forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Running]]:
    """`sgm_forked("train", ...)`: a running command, forked from a server that has imported torch.

    With `code=...` it runs this in the place of a command. What is left of it in the end is killed. For a test of
    signals, of kills, and of commands that run at once.
    """
    yield from _starting(Forked, tmp_path_factory)


@pytest.fixture
def sgm_started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Running]]:
    """As `sgm_forked`, in a new interpreter. A test that uses it is marked `process`, unless it is `essential`."""
    yield from _starting(Started, tmp_path_factory)


def _starting(how: type[Running], folders: pytest.TempPathFactory) -> Iterator[Callable[..., Running]]:
    running: list[Running] = []

    def start(*arguments: object, **options: str) -> Running:
        running.append(how([str(argument) for argument in arguments], folders.mktemp("process"), **options))
        return running[-1]

    yield start
    for process in running:
        process.kill()


@pytest.fixture
def python() -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """`python("-c", code, ...)`: a new interpreter that imports torch, run to its end; options are `subprocess.run`'s.

    A test that uses it is marked `process`, unless it is `essential`.
    """

    def run(*arguments: object, **options: object) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, *map(str, arguments)], **{"capture_output": True, "text": True} | options
        )

    return run


@pytest.fixture
def one_after_another() -> Callable[..., list[tuple[int, str]]]:
    """`one_after_another([["check", ...], ...], cwd, ...)`: commands in one new interpreter; as `python`, for many."""
    return answers
