"""The recipe in a picture's file: a text of a PNG, a comment of a GIF or of a video."""

from __future__ import annotations

from pathlib import Path

from sgm_core.errors import SgmError
from sgm_plugins.tools.sampling.png import KEY
from sgm_plugins.tools.sampling.recipe import Recipe
from sgm_plugins.tools.sampling.video import comment_of


def read_recipe(path: Path) -> tuple[Recipe, int]:
    """The recipe of a file that `sgm sample` wrote, and the number of its picture.

    Raises:
        SgmError: no such file, or there is no recipe in it.
    """
    try:
        text = _text(path)
    except FileNotFoundError as error:
        raise SgmError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise SgmError(f"{path}: not a readable picture: {error}") from error
    if not text:
        raise SgmError(f"{path}: there is no recipe in it; only what `sgm sample` wrote has one, and editors remove it")
    try:
        return Recipe.from_json(text)
    except SgmError as error:
        raise SgmError(f"{path}: {error}") from error


def _text(path: Path) -> str | None:
    if path.suffix == ".mp4":
        return comment_of(path)
    from sgm_core.pictures.files import BadImageError, opened  # which need torch, as a recipe does not

    if not path.exists():
        raise FileNotFoundError
    try:
        with opened(path) as image:
            image.load()  # a text may stand behind the pixels
            text = image.info.get(KEY) or image.info.get("comment")
    except BadImageError as error:
        raise OSError(str(error)) from error
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else text
