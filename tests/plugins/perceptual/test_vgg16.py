from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sgm_plugins.perceptual.vgg16 import CHANNELS, VGG16

WIDTHS = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"]
"""Configuration D of the paper, M a pooling."""

IMAGES = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1


def torchvision_layout() -> nn.Sequential:
    """The convolutions in the order and with the numbers of torchvision's `vgg16().features`."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    width = 3
    for out in WIDTHS:
        if out == "M":
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(width, int(out), 3, padding=1), nn.ReLU()]
            width = int(out)
    return nn.Sequential(*layers)


@pytest.fixture(scope="module")
def layers() -> nn.Sequential:
    return torchvision_layout()


@pytest.fixture(scope="module")
def state(layers: nn.Sequential) -> dict[str, Tensor]:
    return {f"features.{name}": value for name, value in layers.state_dict().items()}


@pytest.fixture(scope="module")
def file(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    # the format of the published file; what else is in it is left alone
    torch.save({**state, "classifier.0.bias": torch.zeros(4)}, path, _use_new_zipfile_serialization=False)
    return path


def test_features_are_those_before_each_pooling_and_at_the_end(file: Path, layers: nn.Sequential) -> None:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    h = ((IMAGES + 1) / 2 - mean.view(3, 1, 1)) / std.view(3, 1, 1)  # as torchvision normalizes images in [0, 1]
    expected = []
    with torch.no_grad():
        for layer in layers:
            if isinstance(layer, nn.MaxPool2d):
                expected.append(h)
            h = layer(h)
    features = VGG16(file)(IMAGES)
    assert [f.shape[1] for f in features] == list(CHANNELS)
    for ours, theirs in zip(features, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_both_kinds_of_file_are_read(file: Path, state: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(state, tmp_path / "vgg16.safetensors")
    for a, b in zip(VGG16(file)(IMAGES), VGG16(tmp_path / "vgg16.safetensors")(IMAGES), strict=True):
        assert torch.equal(a, b)


def test_a_grey_image_is_one_of_three_equal_channels() -> None:
    vgg, grey = VGG16("random"), IMAGES[:, :1]
    for a, b in zip(vgg(grey), vgg(grey.expand(-1, 3, -1, -1)), strict=True):
        assert torch.equal(a, b)


def test_random_features_are_the_same_in_every_run_and_of_the_scale_of_the_image() -> None:
    torch.manual_seed(0)
    first = VGG16("random")(IMAGES)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    second = VGG16("random")(IMAGES)
    assert torch.equal(torch.get_rng_state(), before)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)
        assert 0.1 < a.square().mean().sqrt() < 10


def test_nothing_of_it_is_trained_or_saved() -> None:
    """In the reference `train()` switched its perceptual loss back, and checkpoints held it."""
    vgg = VGG16("random").train().requires_grad_(True)
    assert list(vgg.parameters()) == []
    assert vgg.state_dict() == {}
    assert not any(f.requires_grad for f in vgg(IMAGES))


def test_gradients_reach_the_image() -> None:
    x = IMAGES.clone().requires_grad_()
    VGG16("random")(x)[-1].sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("shape", [(2, 4, 32, 32), (2, 3, 15, 32), (3, 32, 32), (1, 3, 2, 32, 32)])
def test_what_is_no_image_is_refused(shape: tuple[int, ...]) -> None:
    """The reference's perceptual loss takes three channels, and was given latents of four."""
    with pytest.raises(ValueError, match=r"16 pixels or more\. Latents are no images"):
        VGG16("random")(torch.zeros(shape))


def test_random_weights_are_asked_for_and_never_a_fallback(tmp_path: Path) -> None:
    """Nor are any downloaded, as the reference did, into the working folder and without a time limit."""
    missing: Any = None
    with pytest.raises(ValueError, match=r"weights is null; .*'random'"):
        VGG16(missing)
    with pytest.raises(ValueError, match=r"nowhere\.pth: no such file; it should be torchvision's vgg16, https"):
        VGG16(tmp_path / "nowhere.pth")


def test_a_file_of_something_else_is_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    path.write_bytes(b"no weights at all")
    with pytest.raises(ValueError, match=r"other\.pth: cannot be read"):
        VGG16(path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match=r"'features\.0\.weight' should be a tensor \(64, 3, 3, 3\), and it has none"):
        VGG16(path)
    torch.save({**state, "features.28.bias": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match=r"'features\.28\.bias' should be a tensor \(512,\), and it has \(3,\)"):
        VGG16(path)


def test_code_in_a_file_is_never_run(tmp_path: Path) -> None:
    """B29: the reference loaded its perceptual weights with an unpickler that runs code."""
    torch.save({"features.0.weight": _Touches(tmp_path / "ran")}, tmp_path / "vgg16.pth")
    with pytest.raises(ValueError, match="cannot be read"):
        VGG16(tmp_path / "vgg16.pth")
    assert not (tmp_path / "ran").exists()


class _Touches:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.path,)
