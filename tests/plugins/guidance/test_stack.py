from __future__ import annotations

from typing import Any

import pytest
import torch
from support.guided import COND, D_C, INFINITE, SIGMA, UNCOND, Counting, X
from torch import Tensor

from sgm_core import build, load_config
from sgm_core.conditioning import Conditioning
from sgm_core.config.build import BuildError
from sgm_core.roles import Denoise, Guider
from sgm_core.testing import check_component
from sgm_plugins.guidance.stack import StackedGuidance
from sgm_plugins.guiders import ClassifierFreeGuidance, IdentityGuider

CFG = {"use": "cfg", "scale": 5.0}
APG = {"use": "apg", "scale": 3.0, "momentum": 0.0}
PAG = {"use": "perturbed", "scale": 2.0, "mode": "pag", "layers": [0]}
AXES = {"use": "two_axis", "scale": 2.0, "second_scale": 3.0, "second": ["vector"]}


def guider_of(spec: Any) -> Guider:
    guider = build("guiders", spec)
    assert isinstance(guider, Guider)
    return guider


def guided(guider: Guider, denoise: Denoise | None = None) -> Tensor:
    return guider(Counting() if denoise is None else denoise, X, SIGMA, COND, UNCOND)


@pytest.mark.parametrize(
    ("parts", "rows"),
    [
        ([CFG], [6]),
        ([CFG, APG], [6]),
        ([PAG, CFG], [6, 3]),
        ([PAG, {"use": "rescale", "guider": CFG}, {"use": "interval", "guider": APG}], [6, 3]),
        ([{"use": "rescale", "guider": {"use": "interval", "guider": CFG}}, {"use": "rescale", "guider": APG}], [6]),
        ([CFG, AXES], [6, 3]),
        ([{**CFG, "batched": False}, {**APG, "batched": False}], [3, 3]),
        ([{**CFG, "scale": 1.0}, APG], [6]),
        ([{**CFG, "scale": 1.0}, "identity"], [3]),
        ([{"use": "stack", "guiders": [PAG, CFG]}, {"use": "rescale", "guider": PAG}], [6, 3, 3]),
    ],
)
def test_it_adds_what_each_part_adds_and_computes_each_estimate_once(parts: list[Any], rows: list[int]) -> None:
    denoise = Counting()
    found = guided(guider_of({"use": "stack", "guiders": parts}), denoise)
    expected = D_C + sum(guided(guider_of(part)) - D_C for part in parts)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    assert denoise.rows == rows


def test_a_guider_of_a_plugin_shares_what_it_asks_for() -> None:
    class Away(Guider):
        """2 D_c - D_u, with no base of ours."""

        def __call__(
            self, denoise: Denoise, x: Tensor, sigma: Tensor, cond: Conditioning, uncond: Conditioning
        ) -> Tensor:
            return 2 * denoise(x, sigma, cond) - denoise(x, sigma, uncond)

    denoise = Counting()
    guided(StackedGuidance([Away(), ClassifierFreeGuidance(3.0), Away()]), denoise)
    assert denoise.rows == [6]


def test_other_states_and_levels_are_computed_again() -> None:
    """A guider that looks ahead."""

    class Ahead(Guider):
        def __call__(
            self, denoise: Denoise, x: Tensor, sigma: Tensor, cond: Conditioning, uncond: Conditioning
        ) -> Tensor:
            return denoise(x + 1, sigma, cond) + denoise(x, 2 * sigma, cond)

    denoise = Counting()
    guided(StackedGuidance([Ahead(), ClassifierFreeGuidance(3.0)]), denoise)
    assert denoise.rows == [6, 3, 3]
    assert torch.isfinite(StackedGuidance([ClassifierFreeGuidance(2.0)])(Counting(), X, INFINITE, COND, UNCOND)).all()


def test_at_a_level_only_the_parts_that_act_there_count() -> None:
    stack = guider_of(
        {
            "use": "stack",
            "guiders": [
                {"use": "interval", "sigma_lo": 1.0, "guider": CFG},
                {"use": "interval", "sigma_hi": 3.0, "guider": {"use": "apg", "scale": 3.0}},
            ],
        }
    ).for_schedule([40.0, 2.0, 0.5, 0.0])
    torch.testing.assert_close(guided(stack.at(40.0)), guided(guider_of(CFG)))
    first, second = (guided(stack.at(0.5)) for _ in range(2))
    torch.testing.assert_close(first, guided(guider_of({"use": "apg", "scale": 3.0})))
    assert not torch.allclose(first, second), "the momentum of its part lasts through the sample"
    nowhere = guider_of({"use": "stack", "guiders": [{"use": "interval", "sigma_hi": 1.0, "guider": CFG}]})
    assert isinstance(nowhere.at(2.0), IdentityGuider)


def inside(low: float, high: float, guider: Any) -> dict[str, Any]:
    return {"use": "interval", "sigma_lo": low, "sigma_hi": high, "guider": guider}


@pytest.mark.parametrize(
    "parts",
    [
        [CFG, APG, {**CFG, "scale": 2.0}],
        [inside(0, 2, CFG), inside(1, 3, CFG)],
        [PAG, PAG],
        [{"use": "stack", "guiders": [CFG]}, CFG],
        [{"use": "rescale", "guider": CFG}, inside(1, 2, {"use": "rescale", "guider": CFG})],
    ],
)
def test_two_parts_that_one_would_do_for_are_refused_with_the_line(parts: list[Any], tmp_path: Any) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(f"guider: {{use: stack, guiders: {parts}}}\n".replace("'", ""), encoding="utf-8")
    spec = load_config(file)["guider"]
    with pytest.raises(BuildError, match=r"guiders\[0\] and guiders\[\d\] are of one kind .* whose scale is the sum"):
        build("guiders", spec)


@pytest.mark.parametrize(
    "parts", [[inside(0, 2, CFG), inside(2, 3, CFG)], [PAG, {**PAG, "mode": "slg"}], [PAG, {**PAG, "layers": [1]}]]
)
def test_what_acts_elsewhere_or_on_another_pair_is_not(parts: list[Any]) -> None:
    guider_of({"use": "stack", "guiders": parts})


def test_it_keeps_the_promises_of_its_role() -> None:
    check_component("guiders", "stack", guiders=[CFG, PAG])
