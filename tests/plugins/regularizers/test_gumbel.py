import pytest
import torch

from sgm_plugins.regularizers.gumbel import GumbelQuantizer

Z = torch.randn(4, 6, 5, 5, generator=torch.Generator().manual_seed(0))


def build(**options):
    torch.manual_seed(0)
    return GumbelQuantizer(num_hiddens=6, embed_dim=3, n_embed=7, **options)


def test_the_loss_is_the_divergence_from_a_uniform_choice():
    quantizer = build(kl_weight=2.0)
    q = quantizer.proj(Z).softmax(1)
    expected = (q * (q / (1 / 7)).log()).sum(1).mean()
    torch.testing.assert_close(quantizer(Z)[1]["vq_loss"], 2 * expected)
    with torch.no_grad():
        quantizer.proj.weight.zero_()
        quantizer.proj.bias.zero_()
    assert quantizer(Z)[1]["vq_loss"].abs() < 1e-6


def test_codes_are_drawn_with_the_probabilities_of_the_softmax():
    quantizer = build().eval()
    z = Z[:1, :, :1, :1].expand(1, 6, 200, 200)
    drawn = quantizer(z)[1]["indices"].flatten().bincount(minlength=7)
    torch.testing.assert_close(drawn / drawn.sum(), quantizer.proj(Z)[0, :, 0, 0].softmax(0), atol=0.015, rtol=0)


@pytest.mark.parametrize(("straight_through", "training"), [(True, True), (True, False), (False, False)])
def test_every_choice_is_one_entry(straight_through, training):
    quantizer = build(straight_through=straight_through).train(training)
    z, log = quantizer(Z)
    torch.testing.assert_close(quantizer.codes_to_latents(log["indices"]), z)


def test_without_straight_through_training_sees_mixtures_that_grow_single_as_the_temperature_falls():
    quantizer = build(straight_through=False).train()

    def distance():
        z, log = quantizer(Z)
        return (z - quantizer.codes_to_latents(log["indices"])).abs().mean()

    warm = distance()
    quantizer.temperature = 1e-3
    assert distance() < warm / 20


def test_gradients_reach_the_codebook_and_the_choice():
    quantizer, z = build().train(), Z.clone().requires_grad_()
    quantizer(z)[0].square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in (z, *quantizer.parameters()))
