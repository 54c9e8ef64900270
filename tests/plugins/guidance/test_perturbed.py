from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.guided import COND, D_C, SIGMA, UNCOND, Counting, X
from torch import Tensor, nn

from sgm_core import build, build_engine, load_config
from sgm_core.conditioning import Conditioning
from sgm_core.config.tree import ConfigError
from sgm_core.errors import SgmError
from sgm_core.hooks.checks import check_with_plugins
from sgm_core.testing import check_component
from sgm_plugins.guidance.perturbed import PerturbedGuidance
from sgm_plugins.guidance.stack import StackedGuidance
from sgm_plugins.guiders import ClassifierFreeGuidance
from sgm_plugins.tools.sampling.drawing import check_extras


def test_it_moves_away_from_the_perturbed_network() -> None:
    denoise = Counting()
    found = PerturbedGuidance(3.0, "pag", [0, "middle_block"])(denoise, X, SIGMA, COND, UNCOND)
    torch.testing.assert_close(found, 0.5 * D_C + 3.0 * (D_C - 0.5 * D_C))
    assert denoise.rows == [3, 3]
    assert denoise.extras == [{}, {"perturb": {"mode": "pag", "layers": [0, "middle_block"]}}]
    assert COND.extras == {}


def test_it_is_the_guidance_of_diffusers() -> None:
    guiders = pytest.importorskip("diffusers.guiders")
    theirs = guiders.PerturbedAttentionGuidance(
        guidance_scale=0.0,
        perturbed_guidance_scale=2.0,
        perturbed_guidance_layers=[0],
        perturbed_guidance_start=0.0,
        use_original_formulation=True,
    )
    theirs.set_state(step=1, num_inference_steps=100, timestep=torch.tensor(500))
    expected = theirs.forward(D_C, pred_cond_skip=0.5 * D_C).pred
    found = PerturbedGuidance(3.0, "pag", [0])(Counting(), X, SIGMA, COND, UNCOND)
    torch.testing.assert_close(found, expected)


def test_scale_one_is_one_call() -> None:
    denoise = Counting()
    assert torch.equal(PerturbedGuidance(1.0, "slg", [0])(denoise, X, SIGMA, COND, UNCOND), D_C)
    assert denoise.rows == [3]


def test_it_keeps_the_promises_of_its_role() -> None:
    for mode in ("pag", "slg", "seg"):
        check_component("guiders", "perturbed", scale=3.0, mode=mode, layers=["middle_block.1"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": []}, "length >= 1"),
        ({"mode": "blur"}, "'pag', 'slg', 'seg'|pag, slg, seg"),
        ({"layers": 3}, "a list"),
    ],
)
def test_what_no_network_can_do_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("guiders", {"use": "perturbed", "scale": 2.0, "mode": "pag", "layers": [0], **arguments})


CONFIG = """
model:
  use: diffusion
  network: {use: NETWORK}
  denoiser: {use: continuous, scaling: eps}
  first_stage: identity
  sampler:
    use: euler_edm
    discretization: edm
    guider:
      use: stack
      guiders:
        - {use: cfg, scale: 3.0}
        - {use: perturbed, scale: 2.0, mode: pag, layers: [middle_block]}
"""
UNET = (
    "unet, channel_mult: [1], in_channels: 1, model_channels: 32, out_channels: 1, num_res_blocks: 1, "
    "attention_resolutions: []"
)


def test_a_network_without_the_argument_is_refused_with_the_lines_of_both(tmp_path: Path, register: Any) -> None:
    @register("networks", "unaware")
    class Unaware(nn.Module):
        """Takes no extra."""

        def forward(self, x: Tensor, timesteps: Tensor, context: Any = None, y: Any = None) -> Tensor:
            return x

    file = tmp_path / "a.yaml"
    file.write_text(CONFIG.replace("NETWORK", "unaware"), encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        check_with_plugins(load_config(file))
    text = str(error.value)
    assert f"{file}:14:" in text
    assert "model.sampler.guider.guiders[1]" in text
    assert "perturbed needs a network whose call has an argument 'perturb'" in text
    assert f"{file}:4:" in text
    file.write_text(CONFIG.replace("NETWORK", UNET), encoding="utf-8")
    check_with_plugins(load_config(file))
    check_extras(ClassifierFreeGuidance(2.0), Unaware())
    stack = StackedGuidance([ClassifierFreeGuidance(2.0), PerturbedGuidance(2.0, "pag", [0])])
    with pytest.raises(SgmError, match=r"PerturbedGuidance needs a network .* 'perturb', and Unaware has none"):
        check_extras(stack, Unaware())


@torch.no_grad()
def test_a_sample_of_a_model_is_guided_by_its_own_perturbed_network(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(CONFIG.replace("NETWORK", UNET) + "  latent_shape: [1, 8, 8]\n", encoding="utf-8")
    engine: Any = build_engine(load_config(file, overrides=["model.sampler.num_steps=2"]))
    for parameter in engine.model.parameters():
        nn.init.normal_(parameter, std=0.1)
    assert engine.generate(n=2).isfinite().all()
    x, sigma, cond = torch.randn(2, 1, 8, 8), torch.tensor([0.5, 2.0]), Conditioning()
    found = engine.sampler.guider(engine.denoise, x, sigma, cond, cond)
    perturb = {"mode": "pag", "layers": ["middle_block"]}
    D_c, D_p = engine.denoise(x, sigma, cond), engine.denoise(x, sigma, cond.with_extras(perturb=perturb))
    torch.testing.assert_close(found, D_p + 2.0 * (D_c - D_p), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(D_c, D_p, atol=1e-4)
