import sgm_core as sgm
import torch
from sgm_core.conditioning import Conditioning
from sgm_core.testing import check_component
from torch import Tensor

from sgm_plugins.tools.new.templates.denoisers import ExampleDenoiser


def test_a_config_finds_it_by_name() -> None:
    found = sgm.resolve("denoisers", "sgm-example:example")
    assert found is ExampleDenoiser


def test_it_keeps_the_contract_of_its_kind() -> None:
    check_component("denoisers", ExampleDenoiser)


def test_the_network_gets_unit_variance_and_its_output_is_the_estimate() -> None:
    seen: list[Tensor] = []

    def network(x: Tensor, c_noise: Tensor, cond: Conditioning) -> Tensor:
        seen.append(x)
        return torch.full_like(x, 7.0)

    sigma = torch.tensor([0.5, 80.0])
    x = torch.randn(2, 100_000) * (1 + sigma**2).sqrt()[:, None]
    assert (ExampleDenoiser()(network, x, sigma, Conditioning()) == 7).all()
    torch.testing.assert_close(seen[0].std(dim=1), torch.ones(2), atol=0.02, rtol=0)
