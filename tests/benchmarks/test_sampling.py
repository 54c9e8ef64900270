"""The benchmark of samplers runs, and would say if both sides did not sample the same."""

import importlib
from types import ModuleType

import pytest
from support.places import ROOT

pytest.importorskip("diffusers")
pytest.importorskip("scipy", reason="diffusers' LMS computes its weights with scipy")

pytestmark = pytest.mark.filterwarnings("ignore:.*__array:DeprecationWarning")  # of the schedulers

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def sampling(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("sampling")


def test_each_method_has_a_row_beside_a_scheduler_whose_samples_agree(sampling):
    rows = list(sampling.rows(1))
    held = [method.hold for method in (*sampling.METHODS, *sampling.MORE)]
    assert [row.hold for row in rows] == held + [""] * len(sampling.METHODS)
    for row in rows:
        assert row.unit == "us"
        assert row.ratio["low"] <= row.ratio["median"] <= row.ratio["high"]


@pytest.mark.parametrize("eps", [False, True])
def test_another_method_on_the_other_side_is_an_error(sampling, eps):
    euler, dpm, _ = sampling.METHODS
    assert sampling.apart(euler, eps) < 1e-5
    with pytest.raises(ValueError, match="EulerDiscreteScheduler differ by"):
        sampling.apart(euler._replace(sampler=dpm.sampler), eps)
