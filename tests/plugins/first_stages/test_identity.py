import torch

from sgm_plugins.first_stages.identity import IdentityFirstStage


def test_latents_are_the_images():
    stage, x = IdentityFirstStage(), torch.randn(2, 3, 4, 4)
    assert stage.encode(x) is x
    assert stage.decode(x, timesteps=2) is x
    assert not list(stage.parameters())
