from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.guided import COND, D_C, D_U, SIGMA, UNCOND, Counting, X

from sgm_core import build
from sgm_core.config.tree import ConfigError
from sgm_core.testing import check_component
from sgm_plugins.guidance.two_axis import TwoAxisGuidance, only

D_2 = Counting()(X, SIGMA, replace(UNCOND, crossattn=COND.crossattn))


@pytest.mark.parametrize(
    ("scale", "second_scale", "rows"),
    [
        (7.0, 1.5, [9]),
        (3.0, 3.0, [6]),  # cfg
        (3.0, 1.0, [6]),  # D_0 has no weight
        (1.0, 4.0, [9]),
        (0.0, 4.0, [6]),  # D_c has none
        (1.0, 1.0, [3]),
    ],
)
def test_it_is_the_sum_of_two_differences_of_which_only_what_counts_is_computed(
    scale: float, second_scale: float, rows: list[int]
) -> None:
    denoise = Counting()
    found = TwoAxisGuidance(scale, second_scale, ["crossattn"])(denoise, X, SIGMA, COND, UNCOND)
    expected = D_U + second_scale * (D_2 - D_U) + scale * (D_C - D_2)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert denoise.rows == rows


def test_the_second_condition_is_made_of_named_parts() -> None:
    cond = replace(COND, extras={"camera": torch.ones(3, 1), "frames": torch.ones(3, 1)})
    uncond = replace(UNCOND, extras={"camera": torch.zeros(3, 1), "frames": torch.zeros(3, 1)})
    mixed = only(["vector", "camera"], cond, uncond)
    assert mixed.vector is cond.vector
    assert mixed.crossattn is uncond.crossattn
    assert mixed.extras == {"camera": cond.extras["camera"], "frames": uncond.extras["frames"]}
    assert only(["extras"], cond, uncond).extras == cond.extras
    with pytest.raises(ValueError, match="no 'concat'; it has vector, crossattn, camera, frames"):
        only(["concat"], cond, uncond)


def test_nothing_second_is_refused() -> None:
    with pytest.raises(ConfigError, match="length >= 1"):
        build("guiders", {"use": "two_axis", "scale": 2.0, "second_scale": 2.0, "second": []})


def test_it_keeps_the_promises_of_its_role() -> None:
    check_component("guiders", "two_axis", scale=3.0, second_scale=1.0, second=["vector"])
    check_component("guiders", "two_axis", scale=3.0, second_scale=2.0, second=["extras"])
