from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sgm_plugins.perceptual.lpips import LPIPS
from sgm_plugins.perceptual.vgg16 import CHANNELS, VGG16

X, Y = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


class Pixels(nn.Module):
    """The pixels as features, twice; with what a mode and a gradient would show on."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(2.0))
        self.dropout = nn.Dropout(0.9)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.dropout(self.gain * x), x]


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Tensor]]:
    """Heads in the layout of the published ones."""
    torch.manual_seed(0)
    weights = [torch.rand(1, channels, 1, 1) for channels in CHANNELS]
    path = tmp_path_factory.mktemp("lpips") / "vgg.pth"
    state = {f"lin{k}.model.1.weight": weight for k, weight in enumerate(weights)}
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return path, weights


@pytest.fixture(scope="module")
def uniform() -> LPIPS:
    return LPIPS(VGG16("random"), "uniform")


def test_it_is_the_weighted_distance_of_unit_features(heads: tuple[Path, list[Tensor]]) -> None:
    path, weights = heads
    vgg = VGG16("random")
    expected = torch.zeros(2)
    for f, g, w in zip(vgg(X), vgg(Y), weights, strict=True):
        a, b = nn.functional.normalize(f, dim=1), nn.functional.normalize(g, dim=1)
        expected += nn.functional.conv2d((a - b) ** 2, w).mean((1, 2, 3))
    torch.testing.assert_close(LPIPS(vgg, path)(X, Y), expected)


def test_uniform_heads_sum_the_cosine_distances() -> None:
    cosine = nn.functional.cosine_similarity(X, Y, dim=1).mean((1, 2))
    torch.testing.assert_close(LPIPS(Pixels(), "uniform")(X, Y), 2 * 2 * (1 - cosine))


def test_it_is_zero_for_equal_images_and_symmetric(uniform: LPIPS) -> None:
    assert uniform(X, X).tolist() == [0.0, 0.0]
    torch.testing.assert_close(uniform(X, Y), uniform(Y, X))
    assert (uniform(X, Y) > 0).all()


def test_each_pair_is_compared_on_its_own(uniform: LPIPS) -> None:
    torch.testing.assert_close(uniform(X, Y)[1:], uniform(X[1:], Y[1:]))


def test_it_grows_with_the_noise(uniform: LPIPS) -> None:
    noise = torch.randn(X.shape, generator=torch.Generator().manual_seed(1))
    distances = [uniform(X, X + sigma * noise).mean().item() for sigma in (0.05, 0.1, 0.2, 0.4)]
    assert distances == sorted(distances)


def test_its_features_stay_frozen_and_in_eval_mode_whoever_calls_train() -> None:
    """In the reference Lightning's `train()` brought the dropout of the perceptual loss back."""
    lpips = LPIPS(Pixels(), "uniform")
    nn.Sequential(nn.Sequential(lpips)).train()
    assert not any(module.training for module in lpips.modules())
    assert not any(parameter.requires_grad for parameter in lpips.parameters())
    assert torch.equal(lpips(X, Y), lpips(X, Y))


def test_gradients_reach_the_images_and_are_finite_where_there_are_no_features(uniform: LPIPS) -> None:
    x = X.clone().requires_grad_()
    uniform(x, Y).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    empty = torch.zeros(1, 3, 4, 4, requires_grad=True)
    LPIPS(Pixels(), "uniform")(empty.relu(), Y[:1, :, :4, :4]).sum().backward()
    assert empty.grad is not None
    assert empty.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_it_moves_to_another_dtype_and_measures_in_float32_at_least(dtype: torch.dtype, uniform: LPIPS) -> None:
    moved = LPIPS(VGG16("random"), "uniform").to(dtype)
    distance = moved(X.to(dtype), Y.to(dtype))
    assert distance.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(distance.float(), uniform(X, Y), rtol=0.05, atol=0)


def test_heads_of_other_features_are_refused(heads: tuple[Path, list[Tensor]]) -> None:
    with pytest.raises(ValueError, match=r"\[3, 3\] channels, the heads \[64, 128, 256, 512, 512\].*'uniform'"):
        LPIPS(Pixels(), heads[0])(X, Y)


def test_images_of_different_shapes_are_refused(uniform: LPIPS) -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        uniform(X, Y[:1])


def test_uniform_heads_are_asked_for_and_never_a_fallback(tmp_path: Path) -> None:
    missing: Any = None
    with pytest.raises(ValueError, match=r"heads is null; .*'uniform'"):
        LPIPS(Pixels(), missing)
    with pytest.raises(ValueError, match=r"vgg\.pth: no such file; it should be the heads of LPIPS"):
        LPIPS(Pixels(), tmp_path / "vgg.pth")
