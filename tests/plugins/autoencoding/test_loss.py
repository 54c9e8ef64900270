"""The loss of autoencoders, against the formulas written out."""

import math

import pytest
import torch
from torch import nn

from sgm_plugins.autoencoding.loss import Adversarial, AutoencoderLoss, adaptive_weight

X, Y = torch.rand(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1


class Brightness(nn.Module):
    """A distance of one's own: by how much the means differ."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.0))

    def forward(self, x, y):
        return self.gain * (x - y).flatten(1).mean(1).abs()


class Judge(nn.Module):
    """Logits that are a multiple of each pixel."""

    def __init__(self, gain=2.0):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, x):
        self.seen = x
        return self.gain * x


@pytest.mark.parametrize(("loss_type", "power"), [("l1", 1), ("l2", 2)])
def test_the_reconstruction_is_summed_over_an_image_and_averaged_over_the_batch(loss_type, power):
    loss, parts = AutoencoderLoss(loss_type)(X, Y, {})
    error = (X - Y).abs() ** power
    torch.testing.assert_close(loss, error.sum() / 3)
    torch.testing.assert_close(parts["nll_loss"], loss)
    torch.testing.assert_close(parts["rec_loss"], error.mean())


def test_the_perceptual_distance_joins_every_pixel_with_its_weight():
    loss, parts = AutoencoderLoss(perceptual=Brightness(), perceptual_weight=0.5)(X, Y, {})
    distance = (X - Y).mean((1, 2, 3)).abs()
    torch.testing.assert_close(loss, (X - Y).abs().sum() / 3 + 0.5 * 16 * distance.mean())
    torch.testing.assert_close(parts["perceptual_loss"], distance.mean())


def test_the_perceptual_distance_is_frozen():
    assert not AutoencoderLoss(perceptual=Brightness()).perceptual.gain.requires_grad


def test_the_variance_divides_the_error_and_adds_its_logarithm():
    loss, parts = AutoencoderLoss(logvar=0.7)(X, Y, {})
    torch.testing.assert_close(loss, (X - Y).abs().sum() / 3 / math.exp(0.7) + 16 * 0.7)
    assert parts["logvar"].item() == pytest.approx(0.7)


@pytest.mark.parametrize("learn", [True, False])
def test_the_variance_is_learned_if_that_is_asked_for(learn):
    loss_fn = AutoencoderLoss(learn_logvar=learn)
    assert loss_fn.logvar.requires_grad == learn
    if learn:
        optimizer = torch.optim.SGD([loss_fn.logvar], lr=0.01)
        for _ in range(200):
            optimizer.zero_grad()
            loss_fn(X, Y, {})[0].backward()
            optimizer.step()
        # the likelihood is largest where exp(s) is the mean error
        assert loss_fn.logvar.exp().item() == pytest.approx((X - Y).abs().mean().item(), rel=1e-3)


def test_regularizers_losses_have_weights_by_name_and_the_rest_is_logged():
    log = {"kl_loss": torch.tensor(3.0), "vq_loss": torch.tensor(5.0), "perplexity": torch.tensor(7.0), "indices": X}
    plain, _ = AutoencoderLoss()(X, Y, {})
    loss, parts = AutoencoderLoss(regularization_weights={"kl_loss": 0.1, "vq_loss": 0.0})(X, Y, log)
    torch.testing.assert_close(loss, plain + 0.3)
    assert {k: v.item() for k, v in parts.items() if k in log} == {"kl_loss": 3.0, "vq_loss": 5.0, "perplexity": 7.0}


@pytest.mark.parametrize(
    ("weights", "log", "message"),
    [
        ({}, {"kl_loss": torch.tensor(0.0)}, "weights for nothing, and the regularizer gives kl_loss"),
        ({"kl_los": 1.0}, {"kl_loss": torch.tensor(0.0)}, "weights for kl_los, and"),
        ({"kl_loss": 1.0}, {}, "gives no losses"),
    ],
)
def test_a_loss_without_a_weight_and_a_weight_without_a_loss_are_refused(weights, log, message):
    """In the reference a misspelt weight left the latents without any regularization."""
    with pytest.raises(ValueError, match=message):
        AutoencoderLoss(regularization_weights=weights)(X, Y, log)


@pytest.mark.parametrize("loss", ["hinge", "vanilla"])
def test_the_discriminators_loss_is_the_papers(loss):
    loss_fn = AutoencoderLoss(adversarial=Adversarial(Judge(), loss=loss, factor=0.5))
    value, parts = loss_fn.discriminator_loss(X, Y)
    real, fake = 2 * X, 2 * Y
    if loss == "hinge":
        expected = ((1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean()) / 2
    else:
        expected = -(real.sigmoid().log().mean() + (1 - fake.sigmoid()).log().mean()) / 2
    torch.testing.assert_close(value, 0.5 * expected)
    assert parts["logits_real"].item() == pytest.approx(real.mean().item())
    assert parts["logits_fake"].item() == pytest.approx(fake.mean().item())


def test_each_player_has_the_gradient_of_its_own_loss_alone():
    y = Y.clone().requires_grad_()
    loss_fn = AutoencoderLoss(adversarial=Adversarial(Judge(), adaptive=False))
    loss_fn(X, y, {}, adversarial=True)[0].backward()
    assert loss_fn.discriminator.gain.grad is None
    before = y.grad.clone()
    loss_fn.discriminator_loss(X, y)[0].backward()
    assert loss_fn.discriminator.gain.grad is not None
    assert torch.equal(y.grad, before)


def test_before_it_starts_the_discriminator_counts_nothing_and_is_not_called():
    judge = Judge()
    loss_fn = AutoencoderLoss(adversarial=Adversarial(judge))
    torch.testing.assert_close(loss_fn(X, Y, {})[0], AutoencoderLoss()(X, Y, {})[0])
    assert not hasattr(judge, "seen")


def test_weight_and_factor_multiply_the_adversarial_loss():
    plain = AutoencoderLoss()(X, Y, {})[0]
    adversarial = Adversarial(Judge(), weight=0.3, factor=0.5, adaptive=False)
    loss, parts = AutoencoderLoss(adversarial=adversarial)(X, Y, {}, adversarial=True)
    torch.testing.assert_close(loss, plain - 0.3 * 0.5 * 2 * Y.mean())
    assert parts["d_weight"].item() == pytest.approx(0.15)
    assert parts["g_loss"].item() == pytest.approx(-2 * Y.mean().item())


@pytest.mark.parametrize("gain", [0.1, 3.0])
def test_the_adaptive_weight_makes_both_losses_pull_alike(gain):
    """|d nll / d w| / (|d g / d w| + 1e-4) for y = w * z, both gradients written out."""
    w, z = torch.tensor(2.0, requires_grad=True), Y
    loss_fn = AutoencoderLoss("l2", adversarial=Adversarial(Judge(gain), weight=0.5))
    loss, parts = loss_fn(X, w * z, {}, last_layer=w, adversarial=True)
    of_nll = (2 * (2 * z - X) * z).sum() / 3
    of_g = -gain * z.mean()
    ratio = of_nll.abs() / (of_g.abs() + 1e-4)
    torch.testing.assert_close(parts["d_weight"], 0.5 * ratio)
    assert not parts["d_weight"].requires_grad
    loss.backward()
    torch.testing.assert_close(w.grad, of_nll + 0.5 * ratio * of_g)


def test_the_adaptive_weight_is_bounded_where_the_discriminator_sees_nothing():
    w = torch.tensor(2.0, requires_grad=True)
    assert adaptive_weight((1e3 * w).sum(), (0 * w).sum(), w).item() == 1e4


def test_images_of_another_size_are_scaled_if_that_is_asked_for():
    small = Y[..., :2, :2]
    with pytest.raises(ValueError, match=r"\(3, 1, 4, 4\).*\(3, 1, 2, 2\).*set scale_input_to_target"):
        AutoencoderLoss()(X, small, {})
    loss, _ = AutoencoderLoss(scale_input_to_target=True)(X, small, {})
    scaled = nn.functional.interpolate(X, size=(2, 2), mode="bicubic", antialias=True)
    torch.testing.assert_close(loss, (scaled - small).abs().sum() / 3)
    with pytest.raises(ValueError, match="fit the decoder to the encoder"):
        AutoencoderLoss(scale_input_to_target=True)(X, Y.repeat(1, 2, 1, 1), {})


def test_a_discriminator_of_clips_gets_clips():
    judge = Judge()
    frames = torch.arange(6.0)[:, None, None, None].expand(6, 1, 4, 4)
    AutoencoderLoss(adversarial=Adversarial(judge, num_frames=3)).discriminator_loss(X.repeat(2, 1, 1, 1), frames)
    assert judge.seen.shape == (2, 1, 3, 4, 4)
    assert judge.seen[:, 0, :, 0, 0].tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(ValueError, match="3 frames are no whole number of clips of 2"):
        AutoencoderLoss(adversarial=Adversarial(judge, num_frames=2)).discriminator_loss(X, Y)


def test_half_precision_is_compared_in_float32():
    x, y = (1000 * X).bfloat16(), (1000 * Y).bfloat16()
    loss, _ = AutoencoderLoss("l2")(x, y, {})
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, (x.float() - y.float()).square().sum() / 3)


def test_an_unknown_loss_type_is_refused():
    with pytest.raises(ValueError, match="loss_type is 'huber'"):
        AutoencoderLoss("huber")
