"""An invisible text in images, which survives compression: who made them. Needs the extra `watermark`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sgm_core.errors import SgmError

METHOD = "dwtDctSvd"
"""Of https://github.com/ShieldMnt/invisible-watermark: the text is in singular values of the cosine transform of the
wavelet transform of the colours. The library's command reads it, too: `invisible-watermark -a decode -m dwtDctSvd`."""

SMALLEST = 256
"""Pixels of a side: the library's own limit is on their product."""

LONGEST = 32
"""Bytes; each bit is repeated over the image, and the fewer there are the better they survive."""


def watermarked(images: Tensor, text: str) -> Tensor:
    """Images with a text in them, (n, 3, h, w) in [-1, 1], in the 256 levels of a PNG.

    A warning tells of images in which it cannot be read afterwards.

    Args:
        images: (n, 3, h, w) in [-1, 1], of 256 x 256 or more.
        text: at most 32 bytes in UTF-8.

    Raises:
        SgmError: the extra is missing; a text that is empty or too long; images that are too small or not in colour.
    """
    check_watermark(text, images.shape[1:])
    length = len(text.encode())
    encoder = _library().WatermarkEncoder()
    encoder.set_watermark("bytes", text.encode())
    marked = [encoder.encode(image, METHOD) for image in _to_library(images)]
    result = torch.from_numpy(np.stack(marked)[..., ::-1].copy()).permute(0, 3, 1, 2).float().div(127.5).sub(1)
    lost = [i for i, found in enumerate(read_watermark(result, length)) if found != text]
    if lost:
        message = f"the watermark cannot be read in {len(lost)} of {len(images)} images; a shorter one may hold"
        warnings.warn(message, stacklevel=2)
    return result.to(images)


def read_watermark(images: Tensor, length: int) -> list[str]:
    """The text in each image, as far as it is one.

    Args:
        images: (n, 3, h, w) in [-1, 1], of 256 x 256 or more.
        length: of the text, in bytes.

    Raises:
        SgmError: the extra is missing.
    """
    decoder = _library().WatermarkDecoder("bytes", 8 * length)
    return [decoder.decode(image, METHOD).decode(errors="replace") for image in _to_library(images)]


def check_watermark(text: str, shape: Sequence[int]) -> None:
    """Whether images of a shape (c, h, w) can have this text; before they are drawn.

    Raises:
        SgmError: as `watermarked`.
    """
    if not 1 <= len(text.encode()) <= LONGEST:
        raise SgmError(f"a watermark has 1 to {LONGEST} bytes; {text!r} has {len(text.encode())}")
    if shape[0] != 3 or min(shape[1:]) < SMALLEST:
        raise SgmError(f"a watermark needs colour images of {SMALLEST} x {SMALLEST} or more; these are {tuple(shape)}")
    _library()


def _to_library(images: Tensor) -> list[np.ndarray[Any, Any]]:
    """uint8 (h, w, 3), blue first, as OpenCV has them."""
    levels = images.detach().float().cpu().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return [np.ascontiguousarray(image.permute(1, 2, 0).flip(2).numpy()) for image in levels]


def _library() -> Any:
    try:
        return import_module("imwatermark")
    except ImportError as error:
        raise SgmError(
            f'a watermark needs invisible-watermark ({error}).\nInstall it with: pip install "sgm-core[watermark]"'
        ) from error
