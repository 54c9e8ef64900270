import pytest
import torch

from sgm_core.testing import check_component
from sgm_plugins.regularizers.vq import VectorQuantizer


def test_the_loss_pulls_codebook_and_encoder_towards_each_other():
    quantizer = VectorQuantizer(6, 3, beta=0.5)
    z = torch.randn(2, 3, 4, 4, requires_grad=True)
    quantized, log = quantizer(z)
    error = (quantized - z).square().mean().detach()
    torch.testing.assert_close(log["vq_loss"], 1.5 * error)
    log["vq_loss"].backward()
    torch.testing.assert_close(z.grad, 0.5 * 2 * (z - quantized).detach() / z.numel())
    step = quantizer.embedding.weight - 0.1 * quantizer.embedding.weight.grad
    moved = step[log["indices"]].movedim(-1, 1)
    assert (moved - z).square().mean() < error


def test_projections_change_the_channels_around_the_codebook():
    quantizer = VectorQuantizer(6, 2, input_dim=5, output_dim=4)
    assert {"proj_in.weight", "proj_out.weight", "embedding.weight"} <= set(quantizer.state_dict())
    z = torch.randn(2, 5, 3, 7, requires_grad=True)
    quantized, log = quantizer(z)
    assert quantized.shape == (2, 4, 3, 7)
    assert log["indices"].shape == (2, 3, 7)
    torch.testing.assert_close(quantizer.codes_to_latents(log["indices"]), quantized)
    vectors = quantizer.proj_in(z.movedim(1, -1))
    expected = torch.cdist(vectors.flatten(0, 2), quantizer.embedding.weight).argmin(1)
    assert torch.equal(log["indices"].flatten(), expected)
    (quantized.sum() + log["vq_loss"]).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in (z, *quantizer.parameters()))


def test_lengths_and_directions_of_the_codebook_are_learned_apart():
    quantizer = VectorQuantizer(6, 3, embedding_weight_norm=True)
    assert set(quantizer.state_dict()) == {"embedding.weight_g", "embedding.weight_v"}
    torch.testing.assert_close(quantizer.embedding(), quantizer.embedding.weight_v)
    with torch.no_grad():
        quantizer.embedding.weight_v.mul_(7)  # a direction has no length
        quantizer.embedding.weight_g.fill_(2)
    torch.testing.assert_close(quantizer.embedding().norm(dim=0), torch.full((3,), 2.0))


@pytest.mark.parametrize("options", [{"input_dim": 8, "output_dim": 8}, {"embedding_weight_norm": True}])
def test_the_contract_of_its_options(options):
    check_component("regularizers", VectorQuantizer, n_embed=6, embed_dim=8, **options)
