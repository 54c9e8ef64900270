from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sgm_core.conditioning import Conditioning
from sgm_core.roles import Denoiser, Scaling
from sgm_plugins.denoisers import ContinuousDenoiser, DiscreteDenoiser
from sgm_plugins.discretizations import EDMDiscretization, LegacyDDPMDiscretization
from sgm_plugins.scalings import EDMScaling, EpsScaling, VScaling, VScalingEDMNoise

SCALINGS = [EDMScaling(), EpsScaling(), VScaling(), VScalingEDMNoise()]
DDPM = LegacyDDPMDiscretization()


class Recorder:
    """A network that answers with a fixed tensor and keeps what it was called with."""

    def __init__(self, answer: Tensor) -> None:
        self.answer = answer

    def __call__(self, x: Tensor, c_noise: Tensor, cond: Conditioning) -> Tensor:
        self.x, self.c_noise, self.cond = x, c_noise, cond
        return self.answer


def call(denoiser: Denoiser, x: Tensor, sigma: Tensor) -> tuple[Tensor, Recorder]:
    network = Recorder(torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x.dtype))
    return denoiser(network, x, sigma, Conditioning()), network


@pytest.mark.parametrize("scaling", SCALINGS)
def test_the_preconditioning_of_the_paper(scaling: Scaling) -> None:
    x, sigma = torch.randn(3, 2, 4, 4), torch.tensor([0.1, 1.0, 10.0])
    denoised, network = call(ContinuousDenoiser(scaling), x, sigma)
    for i, (c_skip, c_out, c_in, c_noise) in enumerate(zip(*scaling(sigma), strict=True)):
        torch.testing.assert_close(network.x[i], c_in * x[i])
        torch.testing.assert_close(network.c_noise[i], c_noise)
        torch.testing.assert_close(denoised[i], c_skip * x[i] + c_out * network.answer[i])


@pytest.mark.parametrize("scaling", SCALINGS)
def test_clean_data_stay_as_they_are(scaling: Scaling) -> None:
    x = torch.randn(2, 1, 3, 3)
    denoised, _ = call(ContinuousDenoiser(scaling), x, torch.zeros(2))
    assert torch.equal(denoised, x)


def test_the_conditioning_reaches_the_network() -> None:
    network, cond = Recorder(torch.zeros(1, 1, 2, 2)), Conditioning(vector=torch.ones(1, 3))
    ContinuousDenoiser(VScaling())(network, torch.ones(1, 1, 2, 2), torch.ones(1), cond)
    assert network.cond is cond


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_half_precision_data_get_coefficients_of_full_precision(scaling: Scaling, dtype: torch.dtype) -> None:
    # in half precision sigma**2 is 0 at the first level and infinite at the last
    sigma = torch.tensor([1e-4, 1.0, 500.0], dtype=dtype)
    x = torch.randn(3, 1, 4, 4).to(dtype)
    denoised, network = call(ContinuousDenoiser(scaling), x, sigma)
    precise, _ = call(ContinuousDenoiser(scaling), x.double(), sigma.double())
    assert denoised.dtype == network.x.dtype == dtype
    torch.testing.assert_close(denoised.double(), precise, rtol=torch.finfo(dtype).eps, atol=1e-2)
    assert denoised.isfinite().all()


@pytest.mark.parametrize("scaling", [EpsScaling(), VScaling()])
def test_discrete_tells_the_index_of_sigma(scaling: Scaling) -> None:
    """B14: ln(sigma) / 4 was looked up as a sigma: 0.05, 1 and 14 became the indices 0, 0 and 236."""
    sigma, levels = torch.tensor([0.05, 1.0, 14.0]), DDPM.sigmas(1000).flip(0).tolist()
    nearest = [min(range(1000), key=lambda i: abs(levels[i] - s)) for s in sigma.tolist()]
    _, network = call(DiscreteDenoiser(scaling, DDPM), torch.randn(3, 1, 2, 2), sigma)
    assert network.c_noise.tolist() == nearest
    assert network.c_noise.dtype == torch.int64
    assert nearest[0] > 0  # not all noise levels collapse into the first
    assert nearest[1] > nearest[0] + 100


@pytest.mark.parametrize("scaling", [EDMScaling(), VScalingEDMNoise()])
def test_discrete_does_not_look_a_logarithm_up_among_the_sigmas(scaling: Scaling) -> None:
    with pytest.raises(ValueError, match="set quantize_c_noise: false"):
        DiscreteDenoiser(scaling, DDPM)
    sigma = torch.tensor([0.05, 1.0, 14.0])
    _, network = call(DiscreteDenoiser(scaling, DDPM, quantize_c_noise=False), torch.randn(3, 1, 2, 2), sigma)
    torch.testing.assert_close(network.c_noise, sigma.log() / 4, rtol=0, atol=0.01)  # of the nearest levels


@pytest.mark.parametrize("scaling", SCALINGS)
def test_discrete_computes_with_the_nearest_level(scaling: Scaling) -> None:
    denoiser, x = DiscreteDenoiser(scaling, EDMDiscretization(), num_idx=10, quantize_c_noise=False), torch.randn(4, 1)
    sigma = torch.tensor([1e-4, 0.6, 7.0, 1000.0])
    nearest = torch.stack([min(denoiser.sigmas, key=lambda level, s=s: abs(level - s)) for s in sigma])
    denoised, network = call(denoiser, x, sigma)
    expected, continuous = call(ContinuousDenoiser(scaling), x, nearest)
    assert torch.equal(denoised, expected)
    assert torch.equal(network.c_noise, continuous.c_noise)


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("append_zero", [True, False])
def test_every_level_has_its_own_index(flip: bool, append_zero: bool) -> None:
    denoiser = DiscreteDenoiser(EpsScaling(), DDPM, num_idx=100, append_zero=append_zero, flip=flip)
    idx = torch.arange(100 + append_zero)
    assert torch.equal(denoiser.sigma_to_idx(denoiser.idx_to_sigma(idx)), idx)
    assert (denoiser.sigmas[0] < denoiser.sigmas[-1]) == flip
    assert (denoiser.sigmas == 0).any() == append_zero


def test_the_table_is_saved_and_loaded() -> None:
    denoiser = DiscreteDenoiser(EpsScaling(), DDPM)
    state = denoiser.state_dict()
    assert list(state) == ["sigmas"]
    other = DiscreteDenoiser(EpsScaling(), EDMDiscretization())
    other.load_state_dict(state)
    assert torch.equal(other.sigmas, denoiser.sigmas)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_table_keeps_its_levels_apart_in_a_model_of_half_precision(dtype: torch.dtype) -> None:
    table = DiscreteDenoiser(EpsScaling(), DDPM).sigmas
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), DiscreteDenoiser(EpsScaling(), DDPM)).to(dtype)
    assert model[0].weight.dtype == dtype
    assert torch.equal(model[1].sigmas, table)
    assert model.to("meta")[1].sigmas.device.type == "meta"


def test_no_level_is_an_error() -> None:
    with pytest.raises(ValueError, match="n is 1001"):
        DiscreteDenoiser(EpsScaling(), DDPM, num_idx=1001)


@pytest.mark.parametrize("quantized", [None, False, True])
def test_a_flow_map_is_told_the_level_that_it_goes_to(quantized: bool | None) -> None:
    scaling = VScaling()
    denoiser: Denoiser = (
        ContinuousDenoiser(scaling)
        if quantized is None
        else DiscreteDenoiser(scaling, DDPM, num_idx=10, quantize_c_noise=quantized)
    )
    levels = DDPM.sigmas(10)
    sigma, to = levels[:3], levels[3:6]
    x, network = torch.randn(3, 2, 4, 4), Recorder(torch.zeros(3, 2, 4, 4))
    denoiser(network, x, sigma, Conditioning(extras={"next_sigma": to, "frames": 5}))
    assert set(network.cond.extras) == {"next_timesteps", "frames"}
    expected = torch.tensor([6, 5, 4]) if quantized else scaling(to).c_noise
    assert torch.equal(network.cond.extras["next_timesteps"], expected)
    assert torch.equal(network.c_noise, torch.tensor([9, 8, 7]) if quantized else scaling(sigma).c_noise)
