"""Arguments that make no sense together: the constructor's reason, with the line of the config, before any weight."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sgm_core as sgm
from sgm_core.config.build import BuildError
from sgm_core.roles import Coefficients, Scaling
from sgm_plugins.denoisers import DiscreteDenoiser
from sgm_plugins.discretizations import EDMDiscretization, LegacyDDPMDiscretization
from sgm_plugins.losses.standard import StandardLoss
from sgm_plugins.scalings import EDMScaling, EpsScaling, VScaling, VScalingEDMNoise
from sgm_plugins.sigma_samplers import EDMSigmaSampler
from sgm_plugins.weightings import EDMWeighting

TOO_FEW = {"use": "legacy_ddpm", "num_timesteps": 10}
CFG = {"use": "cfg", "scale": 3.0}
IMPOSSIBLE = [
    ("denoisers", {"use": "discrete", "scaling": "edm", "discretization": "legacy_ddpm"}, "a logarithm"),
    ("denoisers", {"use": "discrete", "scaling": "v_edm_noise", "discretization": "edm"}, "a logarithm"),
    (
        "denoisers",
        {"use": "discrete", "scaling": "eps", "discretization": TOO_FEW},
        "n is 1000; .* 1 to 10 noise levels",
    ),
    (
        "sigma_samplers",
        {"use": "discrete", "discretization": TOO_FEW, "num_idx": 11},
        "n is 11; .* 1 to 10 noise levels",
    ),
    ("samplers", {"use": "heun_edm", "discretization": TOO_FEW, "num_steps": 20}, "num_steps is 20, .* has 10 levels"),
    ("samplers", {"use": "substep", "discretization": TOO_FEW, "num_levels": 11}, "num_levels is 11, .* has 10"),
    (
        "samplers",
        {"use": "substep", "discretization": "edm", "num_levels": 3, "num_steps": 4},
        "the table has 3 levels",
    ),
    ("guiders", {"use": "interval", "guider": "identity", "sigma_lo": 2.0, "sigma_hi": 2.0}, "no level is above"),
    ("guiders", {"use": "stack", "guiders": [CFG, CFG]}, "are of one kind .*: make one of them"),
    ("guiders", {"use": "autoguidance", "scale": 2.0, "model": "runs/none"}, "runs/none: no such run or checkpoint"),
    (
        "losses",
        {"use": "standard", "sigma_sampler": "edm", "weighting": "v", "loss_type": "lpips"},
        "'lpips' needs one",
    ),
]


@pytest.mark.parametrize(("kind", "spec", "reason"), IMPOSSIBLE)
def test_the_constructor_refuses_it_and_the_config_says_where(kind, spec, reason):
    with pytest.raises(BuildError, match=rf"^config \({spec['use']}\): .*{reason}"):
        sgm.build(kind, spec)


POSSIBLE = [
    ("denoisers", {"use": "discrete", "scaling": "edm", "discretization": "edm", "quantize_c_noise": False}),
    ("denoisers", {"use": "discrete", "scaling": "v", "discretization": "legacy_ddpm"}),
    ("denoisers", {"use": "discrete", "scaling": "eps", "discretization": "edm", "num_idx": 5000}),
    ("samplers", {"use": "heun_edm", "discretization": "legacy_ddpm", "num_steps": 1000}),
    ("samplers", {"use": "heun_edm", "discretization": "legacy_ddpm"}),
]


@pytest.mark.parametrize(("kind", "spec"), POSSIBLE)
def test_what_makes_sense_is_built(kind, spec):
    sgm.build(kind, spec)


@pytest.mark.parametrize("scaling", [EDMScaling(), VScalingEDMNoise()])
def test_python_is_refused_a_quantised_logarithm(scaling):
    with pytest.raises(ValueError, match="a logarithm of sigma"):
        DiscreteDenoiser(scaling, LegacyDDPMDiscretization())
    DiscreteDenoiser(scaling, LegacyDDPMDiscretization(), quantize_c_noise=False)


@pytest.mark.parametrize("scaling", [EpsScaling(), VScaling(), EDMScaling(), VScalingEDMNoise()])
def test_a_scaling_says_truly_whether_its_c_noise_is_a_logarithm(scaling):
    sigma = torch.tensor([0.5, 1.0, 2.0, 4.0])
    steps = scaling(sigma).c_noise.diff()
    assert scaling.log_c_noise == torch.allclose(steps, steps[0].expand(3))  # equal steps for equal ratios


def test_python_is_refused_a_distance_that_nothing_uses():
    with pytest.raises(ValueError, match="loss_type is 'l1'"):
        StandardLoss(EDMSigmaSampler(), EDMWeighting(), "l1", perceptual=nn.Identity())


def test_a_subclass_is_refused_what_its_base_is():
    class Table(DiscreteDenoiser):
        pass

    with pytest.raises(ValueError, match="a logarithm"):
        Table(EDMScaling(), EDMDiscretization())


# --- before weights ------------------------------------------------------------------------------------------------

ORDER: list[str] = []


class Weights(nn.Linear):
    """A network."""

    def __init__(self) -> None:
        ORDER.append("network")
        super().__init__(2, 2)


class Plain(Scaling):
    """A scaling, which may draw as it is built."""

    def __init__(self, draws: str = "") -> None:
        ORDER.append("scaling")
        self.drawn = {"torch": torch.rand, "numpy": np.random.rand, "python": lambda n: random.random()}.get(
            draws, lambda n: 0
        )(1)

    def __call__(self, sigma: Tensor) -> Coefficients:
        return Coefficients(sigma, sigma, sigma, sigma)


@pytest.fixture
def parts(register):
    register("networks", "weights")(Weights)
    register("scalings", "plain")(Plain)
    ORDER.clear()


def engine(**scaling) -> dict:
    denoiser = {"use": "continuous", "scaling": {"use": "plain", **scaling}}
    return {"use": "diffusion", "network": "weights", "denoiser": denoiser, "first_stage": "identity"}


@pytest.mark.usefixtures("parts")
def test_formulas_are_built_before_weights():
    sgm.build("engines", engine())
    assert ORDER == ["scaling", "network"]


@pytest.mark.usefixtures("parts")
def test_a_mistake_in_a_formula_is_told_before_weights_are_allocated():
    wrong = engine() | {"sampler": {"use": "heun_edm", "discretization": TOO_FEW, "num_steps": 20}}
    with pytest.raises(BuildError, match=r"config sampler \(heun_edm\): num_steps is 20"):
        sgm.build("engines", wrong)
    assert "network" not in ORDER


@pytest.mark.parametrize("source", ["torch", "numpy", "python"])
@pytest.mark.usefixtures("parts")
def test_a_formula_that_draws_does_so_after_what_stands_before_it(source):
    def drawn(use):
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        return use()

    built = drawn(lambda: sgm.build("engines", engine(draws=source)))
    network, scaling = drawn(lambda: (Weights(), Plain(source)))
    assert torch.equal(built.model.diffusion_model.weight, network.weight)
    assert built.denoiser.scaling.drawn == scaling.drawn
    assert ORDER[:3] == ["scaling", "network", "scaling"]
