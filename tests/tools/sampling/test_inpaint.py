"""Keeping a part of an image while the rest is drawn."""

import pytest
import torch

from sgm_core.conditioning import Conditioning
from sgm_plugins.discretizations import EDMDiscretization
from sgm_plugins.guiders import ClassifierFreeGuidance
from sgm_plugins.samplers.dpmpp_2m import DPMPP2MSampler
from sgm_plugins.samplers.euler_edm import EulerEDMSampler
from sgm_plugins.samplers.heun_edm import HeunEDMSampler
from sgm_plugins.samplers.linear_multistep import LinearMultistepSampler
from sgm_plugins.tools.sampling.inpaint import keeping, latent_mask

SAMPLERS = [DPMPP2MSampler, EulerEDMSampler, HeunEDMSampler, LinearMultistepSampler]


@pytest.mark.parametrize("make", SAMPLERS)
def test_the_network_sees_the_kept_part_with_the_noise_of_each_level(make):
    """Of deterministic samplers: x = z0 + sigma * (the noise of the start), at every level that the network meets."""
    z0 = torch.randn(1, 2, 4, 4, dtype=torch.float64)
    noise = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    redrawn = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    redrawn[..., :2] = 1
    met: list[float] = []

    def denoise(x, sigma, cond):
        met.append(sigma[0].item())
        torch.testing.assert_close(x[..., 2:], (z0 + sigma[0] * noise.repeat(len(x) // 3, 1, 1, 1))[..., 2:])
        return 0.3 * x

    sampler = make(EDMDiscretization(), 6, ClassifierFreeGuidance(3.0))
    start = z0 + sampler.schedule()[0].item() * noise
    end = sampler.solve(keeping(denoise, z0, redrawn), start, Conditioning())
    assert len(set(met)) == 6
    torch.testing.assert_close(end[..., 2:], z0.expand_as(end)[..., 2:])
    free = sampler.solve(lambda x, sigma, cond: 0.3 * x, start, Conditioning())
    torch.testing.assert_close(end[..., :2], free[..., :2])  # this denoiser looks at each cell by itself


def test_a_cell_is_redrawn_if_one_of_its_pixels_is():
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[1, 4] = True
    assert latent_mask(mask, 2).tolist() == [[[[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]]]
