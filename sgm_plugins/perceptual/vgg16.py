"""The convolutions of VGG16, as a measure of what an image looks like."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, max_pool2d, relu

from sgm_core.shapes import only_measured
from sgm_core.slots import describe
from sgm_plugins.perceptual.weights import read_weights

_SLICES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""The convolutions of each slice, by their place in torchvision's `vgg16().features`; slices are a pooling apart."""

CHANNELS = (64, 128, 256, 512, 512)
"""Of the features that each slice ends with."""

SMALLEST = 16
"""Pixels of a side of which four poolings leave something."""


class VGG16(nn.Module):
    """Simonyan and Zisserman 2015, arXiv:1409.1556, configuration D: the features before each pooling and at the end.

    Its weights are neither parameters nor saved: nothing trains them, and a checkpoint is not larger for them.

    Args:
        weights: a file in the layout of torchvision's `vgg16`, such as its vgg16-397923af.pth (`.pth` or
            `.safetensors`); or "random", the same random features in every run, which see edges and colours and
            nothing that was learnt.

    Raises:
        ValueError: no such file, or one of something else.
    """

    def __init__(self, weights: Path | Literal["random"]) -> None:
        super().__init__()
        if weights is None:
            raise ValueError("weights is null; give the file of VGG16's weights, or ask for 'random' ones")
        for name, tensor in (_random() if weights == "random" else _read(Path(weights))).items():
            self.register_buffer(name.replace(".", "_"), tensor, persistent=False)
        # of ImageNet's colours, for images in [-1, 1]
        self.register_buffer("mean", torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (b, 3, h, w) in [-1, 1], or grey ones (b, 1, h, w) -> features (b, c_k, h / 2^k, w / 2^k), k = 0..4.

        Raises:
            ValueError: something else, or images of less than 16 pixels.
        """
        if images.ndim != 4 or images.shape[1] not in (1, 3) or min(images.shape[2:]) < SMALLEST:
            raise ValueError(
                f"VGG16 was given {describe(images)}; it looks at images (b, 3, h, w) or (b, 1, h, w) of "
                f"{SMALLEST} pixels or more. Latents are no images: compare them by 'l2', or decode them first"
            )
        mean: Tensor = self.get_buffer("mean")
        h = (images.to(mean.dtype) - mean) / self.get_buffer("std")  # a grey image becomes three equal channels
        features: list[Tensor] = []
        for k, convolutions in enumerate(_SLICES):
            h = max_pool2d(h, 2) if k else h
            for i in convolutions:
                weight, bias = self.get_buffer(f"features_{i}_weight"), self.get_buffer(f"features_{i}_bias")
                h = relu(conv2d(h, weight, bias, padding=1))
            features.append(h)
        return features


def _shapes() -> dict[str, tuple[int, ...]]:
    """Of its weights, by their names in torchvision's state dict."""
    shapes: dict[str, tuple[int, ...]] = {}
    width = 3
    for channels, convolutions in zip(CHANNELS, _SLICES, strict=True):
        for i in convolutions:
            shapes[f"features.{i}.weight"] = (channels, width, 3, 3)
            shapes[f"features.{i}.bias"] = (channels,)
            width = channels
    return shapes


def _read(path: Path) -> dict[str, Tensor]:
    return read_weights(path, _shapes(), "torchvision's vgg16, https://download.pytorch.org/models/vgg16-397923af.pth")


def _random() -> dict[str, Tensor]:
    """He et al. 2015, arXiv:1502.01852: the scale of the features is that of the image, at any depth."""
    if only_measured():
        return {name: torch.empty(shape) for name, shape in _shapes().items()}
    generator = torch.Generator().manual_seed(0)
    weights: dict[str, Tensor] = {}
    for name, shape in _shapes().items():
        if len(shape) == 1:
            weights[name] = torch.zeros(shape)
        else:
            weights[name] = torch.randn(shape, generator=generator) * (2 / (shape[1] * 9)) ** 0.5
    return weights
