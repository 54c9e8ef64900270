"""Watermarks: what is written is read; what cannot be written says why."""

import importlib.util
import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from sgm_core.errors import SgmError
from sgm_core.pictures.labels import to_pil
from sgm_plugins.tools.sampling.watermark import read_watermark, watermarked

needs_library = pytest.mark.skipif(
    importlib.util.find_spec("imwatermark") is None,
    reason="invisible-watermark brings OpenCV, 200 MB, and is no part of the tests' installation",
)


def pictures(n: int = 2) -> torch.Tensor:
    """Soft colours with some detail, (n, 3, 512, 640)."""
    coarse = torch.rand(n, 3, 16, 20, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, size=(512, 640), mode="bicubic").mul(1.2).sub(0.6)


def as_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float().div(127.5).sub(1)


@needs_library
def test_the_text_is_read_from_the_files_also_after_a_compression():
    images = watermarked(pictures(), "sgm, 2026 ä")
    assert (images - pictures()).abs().mean() < 0.03
    for image in images:
        for form, options in (("PNG", {}), ("JPEG", {"quality": 90})):
            file = io.BytesIO()
            to_pil(image).save(file, form, **options)
            assert read_watermark(as_tensor(Image.open(file)), 12) == ["sgm, 2026 ä"]


@needs_library
def test_images_without_it_do_not_have_it():
    assert "sgm" not in read_watermark(pictures(), 3)


@pytest.mark.parametrize(
    ("images", "text", "message"),
    [
        (torch.zeros(1, 3, 255, 256), "sgm", r"256 x 256 or more; these are \(3, 255, 256\)"),
        (torch.zeros(1, 1, 256, 256), "sgm", "needs colour images"),
        (torch.zeros(1, 3, 256, 256), "", "1 to 32 bytes"),
        (torch.zeros(1, 3, 256, 256), "ä" * 17, "has 34"),
    ],
)
def test_what_can_not_be_marked(images, text, message):
    with pytest.raises(SgmError, match=message):
        watermarked(images, text)


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "imwatermark", None)
    with pytest.raises(SgmError, match=r'pip install "sgm-core\[watermark\]"'):
        watermarked(pictures(), "sgm")
