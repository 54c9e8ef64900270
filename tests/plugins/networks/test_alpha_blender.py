import pytest
import torch

from sgm_plugins.networks.alpha_blender import AlphaBlender

SPATIAL, TEMPORAL = torch.full((4, 2, 3), 10.0), torch.full((4, 2, 3), 20.0)
IMAGES = torch.tensor([True, False, False, True])


def mix(strategy, factor, image_only=None):
    return AlphaBlender(strategy, factor)(SPATIAL, TEMPORAL, image_only)


def test_a_fixed_factor_is_the_weight_and_is_not_trained_but_saved():
    blender = AlphaBlender("fixed", 0.75)
    assert torch.equal(blender(SPATIAL, TEMPORAL), torch.full((4, 2, 3), 12.5))
    assert list(blender.parameters()) == []
    assert blender.state_dict()["mix_factor"].tolist() == [0.75]


@pytest.mark.parametrize("strategy", ["learned", "learned_with_images"])
def test_a_learned_weight_is_a_sigmoid_and_is_trained(strategy):
    blender = AlphaBlender(strategy, 0.5)
    weight = 1 / (1 + torch.exp(torch.tensor(-0.5)))
    torch.testing.assert_close(blender(SPATIAL, TEMPORAL), weight * SPATIAL + (1 - weight) * TEMPORAL)
    blender(SPATIAL, TEMPORAL).sum().backward()
    assert blender.mix_factor.grad.item() < 0


def test_rows_that_are_images_keep_what_the_image_layers_say():
    mixed = mix("learned_with_images", 0.5, IMAGES)
    assert torch.equal(mixed[IMAGES], SPATIAL[IMAGES])
    assert torch.equal(mixed[~IMAGES], mix("learned", 0.5)[~IMAGES])


@pytest.mark.parametrize("strategy", ["fixed", "learned"])
def test_the_other_strategies_do_not_look_at_images(strategy):
    assert torch.equal(mix(strategy, 0.5, IMAGES), mix(strategy, 0.5))


@pytest.mark.parametrize(
    ("strategy", "factor", "message"),
    [("fix", 0.5, r"'fix'; known: .*'learned_with_images'"), ("fixed", 1.5, r"merge_factor is 1\.5.*in \[0, 1\]")],
)
def test_arguments_that_make_no_mixture_are_named(strategy, factor, message):
    with pytest.raises(ValueError, match=message):
        AlphaBlender(strategy, factor)
