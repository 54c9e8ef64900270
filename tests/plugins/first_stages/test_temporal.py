import pytest
import torch
from support.autoencoders import SMALL, images, randomized

from sgm_plugins.autoencoding.decoder import Decoder
from sgm_plugins.autoencoding.encoder import Encoder
from sgm_plugins.autoencoding.temporal_decoder import TemporalDecoder
from sgm_plugins.first_stages.temporal import TemporalAutoencoder
from sgm_plugins.regularizers.identity import IdentityRegularizer

Z = images(n=6, size=4, channels=4).double()


def build(time_mode="all", **options):
    decoder = TemporalDecoder(**SMALL, time_mode=time_mode)
    stage = TemporalAutoencoder(decoder, IdentityRegularizer(), Encoder(**SMALL, double_z=False), **options)
    return randomized(stage).double()


@pytest.mark.parametrize("time_mode", ["all", "conv-only", "attn-only"])
@pytest.mark.parametrize("chunk", [None, 1, 5])
def test_a_batch_of_clips_is_decoded_as_each_clip_alone(time_mode, chunk):
    """B34: whatever the engine says the batch holds, and wherever memory asks for a cut."""
    clip = build(time_mode)
    apart = torch.cat([clip.decode(Z[:2]), clip.decode(Z[2:4], timesteps=2), clip.decode(Z[4:])])
    stage = build(time_mode, num_frames=2, chunk=chunk)
    torch.testing.assert_close(stage.decode(Z, timesteps=6), apart)
    torch.testing.assert_close(stage.decode(Z), apart)
    torch.testing.assert_close(clip.decode(Z, timesteps=2), apart)
    assert not torch.allclose(clip.decode(Z), apart, atol=1e-3)


def test_a_decoder_of_images_is_refused():
    with pytest.raises(ValueError, match="Decoder decodes images one by one: use the first stage 'autoencoder'"):
        TemporalAutoencoder(Decoder(**SMALL), IdentityRegularizer())


def test_frames_are_encoded_one_by_one():
    stage, x = build(), images(n=4).double()
    torch.testing.assert_close(stage.encode(x), torch.cat([stage.encode(frame[None]) for frame in x]))


@pytest.mark.parametrize(("num_frames", "timesteps"), [(4, None), (4, 6), (None, 4), (4, 2), (None, 0)])
def test_a_clip_is_never_cut(num_frames, timesteps):
    """B34: the reference's chunks cut clips where memory asked for it."""
    with pytest.raises(ValueError, match="whole number of clips"):
        build(num_frames=num_frames).decode(Z, timesteps=timesteps)
