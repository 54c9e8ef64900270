"""Turns are taken, the first round warms up, and who fails does not stop the others."""

import importlib
from types import ModuleType

import pytest
from support.places import ROOT

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def race(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("race")


class Runner:
    def __init__(self, race, log, name, seconds):
        self.race, self.log, self.name, self.seconds = race, log, name, iter(seconds)

    def sample(self):
        self.log.append(self.name)
        try:
            return self.race.Sample(next(self.seconds), self.name)
        except StopIteration:
            raise self.race.ContenderError("out of breath") from None

    def close(self):
        self.log.append(f"{self.name} closed")


def test_contenders_take_turns_and_the_first_round_does_not_count(race):
    log: list[str] = []
    results = race.race({name: Runner(race, log, name, [9, 1, 2]) for name in "ab"}, rounds=2)
    assert log == ["a", "b", "a", "b", "a", "b", "a closed", "b closed"]
    assert results["a"].seconds == [1, 2]
    assert results["b"].outcome == "b"


def test_one_that_fails_is_out_and_the_others_go_on(race):
    log: list[str] = []
    results = race.race({"a": Runner(race, log, "a", []), "b": Runner(race, log, "b", [1, 2, 3])}, rounds=2)
    assert results["a"].failure == "out of breath"
    assert log.count("a") == 1
    assert results["b"].seconds == [2, 3]


def test_one_that_used_up_its_time_stops_and_what_it_did_counts(race):
    log: list[str] = []
    long = 2 * race.SECONDS_EACH
    results = race.race({"a": Runner(race, log, "a", [long, 1]), "b": Runner(race, log, "b", [1, 2])}, rounds=1)
    assert results["a"].seconds == [long]
    assert results["b"].seconds == [2]


def test_a_summary_is_the_median_between_the_quartiles(race):
    assert race.summary([5, 1, 2, 4, 3]) == (3, 2, 4, 5)
    assert race.summary([7]) == (7, 7, 7, 1)
