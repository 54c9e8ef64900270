import pytest
import torch
from support.autoencoders import SMALL, images, randomized

from sgm_plugins.autoencoding.decoder import Decoder
from sgm_plugins.autoencoding.temporal_decoder import TemporalDecoder

MODES = ["all", "conv-only", "attn-only"]


@pytest.mark.parametrize("time_mode", MODES)
def test_all_time_modes_decode(time_mode):
    """B34: two of the three could not be constructed."""
    decoder = TemporalDecoder(**SMALL, time_mode=time_mode, attn_resolutions=[128])
    assert decoder(images(n=6, size=4, channels=4), 3).shape == (6, 3, 8, 8)


@pytest.mark.parametrize("time_mode", MODES)
def test_frames_see_their_clip_and_no_other(time_mode):
    """B34: the reference took the whole batch for one clip."""
    decoder = randomized(TemporalDecoder(**SMALL, time_mode=time_mode)).double()
    z = images(n=6, size=4, channels=4).double()
    together = decoder(z, 3)
    apart = torch.cat([decoder(z[:3], 3), decoder(z[3:], 3)])
    torch.testing.assert_close(together, apart)
    changed = z.clone()
    changed[1] += 1
    moved = (decoder(changed, 3) - together).abs().amax(dim=(1, 2, 3))
    assert (moved[:3] > 1e-3).all()
    assert not moved[3:].any()


@pytest.mark.parametrize("time_mode", MODES)
def test_every_parameter_matters(time_mode):
    decoder = randomized(TemporalDecoder(**SMALL, time_mode=time_mode, attn_resolutions=[128])).double()
    decoder(images(n=6, size=4, channels=4).double(), 3).square().sum().backward()
    assert [key for key, p in decoder.named_parameters() if not p.grad.abs().sum() > 0] == []


def test_with_all_of_the_mixture_on_the_image_layers_it_is_the_image_decoder():
    """A fixed mixture of 0 in the residual blocks; the last convolution passes frames on."""
    temporal = randomized(TemporalDecoder(**SMALL, merge_strategy="fixed", alpha=0.0))
    with torch.no_grad():
        last = temporal.conv_out.time_mix_conv
        last.weight.zero_()[range(3), range(3), 1] = 1
        last.bias.zero_()
    image = Decoder(**SMALL).eval()
    image.load_state_dict({key: value for key, value in temporal.state_dict().items() if key in image.state_dict()})
    z = images(n=4, size=4, channels=4)
    torch.testing.assert_close(temporal(z, 2), image(z))


def test_a_learned_mixture_starts_at_the_sigmoid_of_alpha():
    fixed = randomized(TemporalDecoder(**SMALL, time_mode="all", merge_strategy="fixed", alpha=0.5))
    learned = TemporalDecoder(**SMALL, time_mode="all").eval()
    mixtures = {key for key, _ in learned.named_parameters() if key.endswith("mix_factor")}
    assert mixtures == {key for key, _ in fixed.named_buffers() if key.endswith("mix_factor")} != set()
    weights = {key: value for key, value in fixed.state_dict().items() if key not in mixtures}
    learned.load_state_dict(weights, strict=False)
    z = images(n=4, size=4, channels=4)
    torch.testing.assert_close(learned(z, 2), fixed(z, 2))


@pytest.mark.parametrize("time_mode", MODES)
def test_the_last_layer_is_the_weight_nearest_to_the_image(time_mode):
    decoder, z = randomized(TemporalDecoder(**SMALL, time_mode=time_mode)), images(n=2, size=4, channels=4)
    with torch.no_grad():
        decoder.last_layer.zero_()
        assert decoder(z, 2).flatten(2).std(-1).max() < 1e-6


def test_convolutions_over_frames_have_the_kernel_that_was_asked_for():
    for given, kernel in ((3, (3, 3, 3)), ([5, 1, 3], (5, 1, 3))):
        decoder = TemporalDecoder(**SMALL, video_kernel_size=given)
        assert decoder.conv_out.time_mix_conv.kernel_size == kernel
        assert decoder.mid.block_1.time_stack.in_layers[2].kernel_size == kernel


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"video_kernel_size": 2}, "video_kernel_size is 2"),
        ({"time_mode": "all", "attn_type": "none"}, "'all' extends attn_type 'vanilla'.*'none'"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        TemporalDecoder(**(SMALL | change))
