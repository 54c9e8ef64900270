import pytest
import torch
from torch import nn

from sgm_plugins.discriminators.patch import PatchDiscriminator


@pytest.mark.parametrize(("num_layers", "patch"), [(1, 16), (2, 34), (3, 70)])
def test_a_logit_sees_a_patch_of_the_papers_size(num_layers, patch):
    """Isola et al. 2017, section 6.1.2: 16, 34 (not in the paper), 70 pixels."""
    judge = PatchDiscriminator(1, ndf=4, num_layers=num_layers, norm="none")
    x = torch.randn(1, 1, 160, 160, requires_grad=True)
    logits = judge(x)
    middle = logits.shape[-1] // 2
    logits[0, 0, middle, middle].backward()
    seen = x.grad[0, 0].abs().sum(0).nonzero()
    assert seen.max() - seen.min() + 1 == patch


def test_it_has_the_layers_of_the_published_one():
    """`loss.discriminator.main.*` of VQGAN's checkpoints."""
    keys = PatchDiscriminator().state_dict()
    assert {key.rpartition(".")[0] for key in keys} == {f"main.{i}" for i in (0, 2, 3, 5, 6, 8, 9, 11)}
    assert [tuple(keys[f"main.{i}.weight"].shape[:2]) for i in (0, 2, 5, 8, 11)] == [
        (64, 3), (128, 64), (256, 128), (512, 256), (1, 512)]  # fmt: skip
    assert "main.2.bias" not in keys
    assert "main.2.bias" in PatchDiscriminator(norm="none").state_dict()


def test_widths_stop_at_eight_times_the_first():
    widths = [
        layer.out_channels for layer in PatchDiscriminator(ndf=2, num_layers=6).main if isinstance(layer, nn.Conv2d)
    ]
    assert widths == [2, 4, 8, 16, 16, 16, 16, 1]


@pytest.mark.parametrize(("norm", "depends"), [("batch", True), ("instance", False), ("none", False)])
def test_only_batch_norm_lets_an_image_see_the_others(norm, depends):
    torch.manual_seed(0)
    judge, x = PatchDiscriminator(ndf=8, num_layers=2, norm=norm).train(), torch.randn(3, 3, 32, 32)
    alone, together = judge(x[:1]), judge(x)[:1]
    assert torch.allclose(alone, together, atol=1e-5) != depends


def test_instance_norm_takes_the_contrast_away_and_none_does_not():
    x = torch.randn(2, 3, 32, 32)
    for norm, differs in (("instance", False), ("none", True)):
        judge = PatchDiscriminator(ndf=8, num_layers=2, norm=norm)
        for layer in judge.main:
            if getattr(layer, "bias", None) is not None:
                nn.init.zeros_(layer.bias)
        change = (judge(100 * x) - judge(x)).norm() / judge(x).norm()
        assert (change > 0.1) == differs


def test_weights_start_small_and_norms_near_one():
    torch.manual_seed(0)
    judge = PatchDiscriminator()
    assert judge.main[5].weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert judge.main[6].weight.mean().item() == pytest.approx(1.0, abs=0.01)
    assert judge.main[6].weight.std().item() == pytest.approx(0.02, rel=0.2)


def test_of_clips_it_keeps_the_frames_and_sees_their_neighbours():
    judge, x = (
        PatchDiscriminator(1, ndf=4, num_layers=1, norm="none", dims=3),
        torch.randn(1, 1, 9, 8, 8, requires_grad=True),
    )
    logits = judge(x)
    assert logits.shape == (1, 1, 9, 2, 2)
    logits[0, 0, 4].sum().backward()
    assert x.grad.abs().sum((0, 1, 3, 4)).nonzero().flatten().tolist() == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_clips_are_normalized_in_three_dimensions(norm):
    x = torch.randn(2, 3, 4, 16, 16)
    assert PatchDiscriminator(ndf=4, num_layers=2, norm=norm, dims=3)(x).shape == (2, 1, 4, 2, 2)


def test_the_smallest_image_gives_one_logit_and_a_smaller_one_is_refused():
    judge = PatchDiscriminator(num_layers=3, ndf=4)
    assert judge(torch.zeros(1, 3, 24, 24)).shape == (1, 1, 1, 1)
    with pytest.raises(ValueError, match=r"\(1, 3, 23, 24\).*24 pixels a side or more. Fewer num_layers"):
        judge(torch.zeros(1, 3, 23, 24))
    with pytest.raises(ValueError, match=r"it judges clips \(b, c, t, h, w\)"):
        PatchDiscriminator(dims=3)(torch.zeros(1, 3, 32, 32))
