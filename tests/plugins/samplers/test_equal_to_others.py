"""Every sampler on every kind of model, beside formulas and other programs: the cells of `benchmarks/equal_to.py`."""

from __future__ import annotations

import pytest
from support.benchmark import benchmark

from sgm_core.registry import index

pytest.importorskip("diffusers")
pytest.importorskip("scipy", reason="the formulas integrate with scipy")

pytestmark = pytest.mark.filterwarnings("ignore:.*__array:DeprecationWarning")  # of the schedulers

EQUAL_TO = benchmark("equal_to")
ENTRIES = EQUAL_TO.entries()


def test_the_table_has_every_built_in_sampler() -> None:
    assert {name.split(",")[0] for name in ENTRIES} == set(index.names("samplers"))


@pytest.mark.parametrize("name", ENTRIES)
def test_a_whole_trajectory_is_that_of_the_formula_and_of_the_scheduler(name: str) -> None:
    for kind in EQUAL_TO.KINDS:
        formula, rounded, peer = EQUAL_TO.cell(ENTRIES[name], kind)
        assert formula < EQUAL_TO.FORMULA, kind
        assert rounded < EQUAL_TO.SINGLE, kind
        assert isinstance(peer, str) or peer < EQUAL_TO.SINGLE, kind


def test_a_flow_model_from_pure_noise_is_integrated_as_x_plus_dt_v() -> None:
    assert EQUAL_TO.exact_limit() < 1e-12
