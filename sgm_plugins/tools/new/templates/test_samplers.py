import sgm_core as sgm
import torch
from sgm_core.conditioning import Conditioning
from sgm_core.testing import check_component
from torch import Tensor

from sgm_plugins.tools.new.templates.samplers import ExampleSampler


def test_a_config_finds_it_by_name() -> None:
    found = sgm.resolve("samplers", "sgm-example:example")
    assert found is ExampleSampler


def test_it_keeps_the_contract_of_its_kind() -> None:
    check_component("samplers", ExampleSampler, discretization="edm", num_steps=8)


def test_it_finds_the_only_image_of_a_data_set() -> None:
    image = torch.linspace(-1, 1, 16).reshape(1, 4, 4)

    def denoise(x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        return image.expand_as(x)  # the ideal denoiser of this data set

    sampler = ExampleSampler(sgm.build("discretizations", "edm"), num_steps=8)
    steps: list[int] = []
    samples = sampler(denoise, torch.randn(2, 1, 4, 4), Conditioning(), progress=lambda step, total: steps.append(step))
    torch.testing.assert_close(samples, image.expand_as(samples), atol=1e-5, rtol=0)
    assert steps == list(range(1, 9))
