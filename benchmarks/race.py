"""Contenders that take turns, A B C A B C, so that what else the machine does meets all of them alike."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

HERE = Path(__file__).parent

SECONDS_EACH = 10.0
"""A contender that has run for so long in one race is measured well enough, or slow enough, to stop."""


class Sample(NamedTuple):
    """One run, and what came out of it, as JSON."""

    seconds: float
    outcome: Any


class ContenderError(Exception):
    """A contender could not run; the text is the last line of what it said."""


class Contender(Protocol):
    def sample(self) -> Sample: ...

    def close(self) -> None: ...


@dataclass
class Result:
    """The runs of one contender, in the order of the rounds."""

    seconds: list[float] = field(default_factory=list)
    outcome: Any = None
    failure: str = ""

    @property
    def median(self) -> float:
        """Of the seconds."""
        return statistics.median(self.seconds)


def race(contenders: Mapping[str, Contender], rounds: int, seconds_each: float = SECONDS_EACH) -> dict[str, Result]:
    """Each contender once per round. The first round warms up and does not count, unless it took all of the time."""
    results = {name: Result() for name in contenders}
    spent = dict.fromkeys(contenders, 0.0)
    try:
        for turn in range(rounds + 1):
            for name, contender in contenders.items():
                result = results[name]
                if result.failure or spent[name] > seconds_each:
                    continue
                try:
                    seconds, result.outcome = contender.sample()
                except ContenderError as error:
                    result.failure = str(error)
                    continue
                spent[name] += seconds
                if turn > 0 or seconds > seconds_each:
                    result.seconds.append(seconds)
    finally:
        for contender in contenders.values():
            contender.close()
    return results


# --- kinds of contenders -------------------------------------------------------------------------------------------


class Work:
    """A function that is called in this process; what it gives is the outcome.

    Args:
        function: the work.
        times: calls of one sample, whose seconds are those of one call.
        before: is called before each sample, and not timed.
    """

    def __init__(
        self, function: Callable[[], Any], times: int = 1, before: Callable[[], object] = lambda: None
    ) -> None:
        self._function, self._times, self._before = function, times, before

    def sample(self) -> Sample:
        self._before()
        start = time.perf_counter()
        for _ in range(self._times):
            outcome = self._function()
        return Sample((time.perf_counter() - start) / self._times, outcome)

    def close(self) -> None: ...


def environment(python: Path, path: Iterable[Path] = ()) -> dict[str, str]:
    """This process's without what changes the work, with folders put on `sys.path`. Those of PYTHONPATH are for our
    interpreter: it may find us there."""
    kept = {name: value for name, value in os.environ.items() if name not in ("SGM_PLUGINS", "PYTHONDONTWRITEBYTECODE")}
    inherited = os.environ.get("PYTHONPATH", "") if str(python) == sys.executable else ""
    folders = [*map(str, path), *filter(None, inherited.split(os.pathsep))]
    return {**kept, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, folders)), "OMP_NUM_THREADS": "1"}


def last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2] or "no output"


class Process:
    """A whole process, from its start to its end; what it prints is the outcome, where it is JSON."""

    def __init__(self, python: Path, code: str, *path: Path) -> None:
        self._command, self._environment = [str(python), "-c", code], environment(python, path)

    def sample(self) -> Sample:
        start = time.perf_counter()
        done = subprocess.run(
            self._command, env=self._environment, cwd=HERE, capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - start
        if done.returncode:
            raise ContenderError(last_line(done.stderr))
        try:
            return Sample(seconds, json.loads(done.stdout))
        except ValueError:
            return Sample(seconds, None)

    def close(self) -> None: ...


class Inside:
    """Work timed inside a process that has done its imports. `fresh`: a new process for every run, so that nothing
    is remembered between two; otherwise one, asked again and again."""

    def __init__(self, python: Path, name: str, /, *path: Path, fresh: bool = True, **options: Any) -> None:
        script = HERE / "registry_contenders.py"
        self._command = [str(python), str(script), name, json.dumps(options)]
        self._environment, self._fresh = environment(python, path), fresh
        self._process: subprocess.Popen[str] | None = None

    def sample(self) -> Sample:
        if self._process is None:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                cwd=HERE,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            process.stdin.write("\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            said = process.stderr.read()
            self.close()
            raise ContenderError(last_line(said))
        if self._fresh:
            self.close()
        return Sample(*json.loads(answer))

    def close(self) -> None:
        if self._process is not None:
            self._process.communicate()  # the end of its input is its end
            self._process = None


# --- statistics ----------------------------------------------------------------------------------------------------


class Summary(NamedTuple):
    """The median, between the quartiles."""

    median: float
    low: float
    high: float
    samples: int


def summary(values: list[float]) -> Summary:
    if len(values) < 2:
        return Summary(values[0], values[0], values[0], 1)
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Summary(median, low, high, len(values))


def paired(operation: Callable[[float, float], float], left: list[float], right: list[float]) -> list[float]:
    """Round by round: a slow second meets both."""
    return [operation(a, b) for a, b in zip(left, right)]  # noqa: B905 a slow contender had fewer rounds
