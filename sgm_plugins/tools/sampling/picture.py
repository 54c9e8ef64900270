"""What a pipeline gives: a picture or a clip, with the recipe that repeats it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from sgm_core.errors import SgmError
from sgm_core.pictures.files import BadImageError, read_header, read_image
from sgm_core.pictures.labels import to_pil
from sgm_plugins.tools.sampling.png import save_png
from sgm_plugins.tools.sampling.recipe import Recipe
from sgm_plugins.tools.sampling.video import save_clip

FPS = 7
"""Frames per second of a file, unless the recipe says otherwise."""

IN_MEMORY = "<in memory>"
"""Stands in a recipe for an image that came from no file."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture, or a clip.

    Attributes:
        image: (c, h, w) in [-1, 1] on the CPU; a clip is (frames, c, h, w).
        recipe: of all the pictures that were drawn together with it, whose number changes its last digits.
        index: of this one among them.
    """

    image: Tensor
    recipe: Recipe
    index: int

    @property
    def seed(self) -> int:
        """Its own."""
        return self.recipe.seeds[self.index]

    @property
    def is_clip(self) -> bool:
        return self.image.ndim == 4

    @property
    def frames(self) -> list[Image.Image]:
        """As images of Pillow; a picture is one."""
        return [to_pil(frame) for frame in (self.image if self.is_clip else self.image[None])]

    def save(self, path: Path | str, with_paths: bool = False) -> Path:
        """Write it with its recipe: `.png`; a clip as `.gif`, `.mp4` or, without a suffix, a folder of PNG frames.

        Args:
            path: of the file.
            with_paths: whether the recipe has the full paths of its files, see `Recipe.to_json`.

        Raises:
            SgmError: a format that does not hold it.
        """
        path = Path(path)
        recipe = self.recipe.to_json(self.index, with_paths)
        if self.is_clip:
            save_clip(self.frames, path, self.recipe.fps or FPS, recipe)
        elif path.suffix == ".png":
            save_png(self.frames[0], path, recipe)
        else:
            raise SgmError(f"{path}: a picture is written as .png, which keeps its recipe and every pixel")
        return path


ImageSource = str | Path | Image.Image | Tensor
"""A file, an image of Pillow, or a tensor (c, h, w) in [-1, 1]."""


def name_of(source: ImageSource | None) -> str | None:
    """How a recipe calls an image."""
    if source is None:
        return None
    return str(source) if isinstance(source, (str, Path)) else IN_MEMORY


def load_image(source: ImageSource, size: tuple[int, int] | None, channels: int) -> Tensor:
    """An image (channels, h, w) in [-1, 1]: scaled to cover the size, and cropped around its centre to it.

    Args:
        source: where it comes from.
        size: (width, height); None: as it is.
        channels: 1 or 3.

    Raises:
        SgmError: it cannot be read, or is a tensor of another shape.
    """
    if isinstance(source, Tensor):
        if source.ndim != 3 or len(source) != channels or (size is not None and source.shape[1:] != (size[1], size[0])):
            wanted = f"({channels}, {'h, w' if size is None else f'{size[1]}, {size[0]}'})"
            raise SgmError(f"the image is a tensor {tuple(source.shape)}; it has to be {wanted}")
        return source.detach().float().cpu()
    if str(source) == IN_MEMORY:
        raise SgmError("the recipe's image came from no file: give it again (--init, --mask)")
    if channels not in (1, 3):
        raise SgmError(f"this model's images have {channels} channels; only gray and RGB images can be given")
    try:
        width, height = size or size_of(source)
        return read_image(_readable(source), (height, width), 1 if channels == 1 else 3).image
    except BadImageError as error:
        raise SgmError(f"{name_of(source)}: {error}") from error


def load_mask(source: ImageSource, of: ImageSource, size: tuple[int, int]) -> Tensor:
    """What is to be redrawn, (h, w) bool, scaled and cropped like the image.

    Args:
        source: the mask; what is lighter than mid-gray is redrawn.
        of: the image, which the mask lies on.
        size: (width, height) to which both are brought.

    Raises:
        SgmError: as `load_image`; it is not as large as the image, or selects nothing, or everything.
    """
    own, whole = size_of(source), size_of(of)
    if own != whole:
        raise SgmError(
            f"the mask is {own[0]}x{own[1]}, and the image {whole[0]}x{whole[1]}: it has to lie on it pixel by pixel"
        )
    redrawn = load_image(source, size, 1)[0] > 0
    cropped = "" if size == own else f", brought to {size[0]}x{size[1]},"
    if not redrawn.any():
        raise SgmError(
            f"the mask{cropped} is black everywhere, so nothing would be redrawn: make white what is to change"
        )
    if redrawn.all():
        raise SgmError(
            f"the mask{cropped} is white everywhere, so all would be redrawn: leave it out (as --strength 1 does), "
            "or make black what is to stay"
        )
    return redrawn


def size_of(source: ImageSource) -> tuple[int, int]:
    """(width, height) of an image.

    Raises:
        SgmError: it cannot be read.
    """
    if isinstance(source, Tensor):
        return source.shape[-1], source.shape[-2]
    if str(source) == IN_MEMORY:
        raise SgmError("the recipe's image came from no file: give it again (--init, --mask)")
    try:
        height, width = read_header(_readable(source)).size
    except BadImageError as error:
        raise SgmError(f"{name_of(source)}: {error}") from error
    return width, height


def digest_of(image: Tensor) -> str:
    """sha256 of shape and values."""
    content = image.contiguous()
    return hashlib.sha256(repr(tuple(content.shape)).encode() + content.numpy().tobytes()).hexdigest()


def _readable(source: str | Path | Image.Image) -> Path | Image.Image:
    if isinstance(source, Image.Image):
        return source
    if not Path(source).exists():
        raise SgmError(f"{source}: no such image")
    return Path(source)
