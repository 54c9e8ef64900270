"""Clips as files: GIF, MP4, or a PNG per frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sgm_core.errors import SgmError
from sgm_core.files import replacing
from sgm_plugins.tools.sampling.png import save_png

FASTEST_GIF = 100
"""Frames per second."""


def save_clip(frames: Sequence[Image.Image], path: Path, fps: int, recipe: str) -> None:
    """Write a clip with its recipe, in the format of the suffix; without one, a folder with a PNG per frame.

    Raises:
        SgmError: another format; MP4 without the extra `video`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gif":
        check_gif(fps)
        with replacing(path) as temporary:
            frames[0].save(
                temporary,
                "GIF",
                save_all=True,
                append_images=frames[1:],
                duration=round(1000 / fps),  # the format counts hundredths of a second
                loop=0,
                comment=recipe.encode(),
            )
    elif path.suffix == ".mp4":
        _save_mp4(frames, path, fps, recipe)
    elif path.suffix == "":
        files = [path / f"frame-{i:03d}.png" for i in range(len(frames))]
        for frame, file in zip(frames, files, strict=True):
            save_png(frame, file, recipe)
        for left in set(path.glob("frame-*.png")) - set(files):  # of a longer clip that was here
            left.unlink()
    else:
        raise SgmError(f"{path}: '{path.suffix}' is no format of clips; .gif and .mp4 are, and a folder of frames")


def check_gif(fps: int) -> None:
    """Refuse more frames per second than a GIF can show, whose pictures last 1/100 s at least.

    Raises:
        SgmError: those.
    """
    if fps > FASTEST_GIF:
        raise SgmError(
            f"a GIF has at most {FASTEST_GIF} frames per second, not {fps}; MP4 and PNG frames do (--format)"
        )


def require_mp4() -> Any:
    """PyAV, which writes MP4.

    Raises:
        SgmError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise SgmError('MP4 needs an extra: pip install "sgm-core[video]" (GIF and PNG frames do not)') from error
    return av


def _save_mp4(frames: Sequence[Image.Image], path: Path, fps: int, recipe: str) -> None:
    av = require_mp4()
    width, height = frames[0].size
    if width % 2 or height % 2:
        raise SgmError(f"{path}: MP4 holds clips of even width and height, not {width}x{height}; GIF holds any")
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as file:
        file.metadata["comment"] = recipe
        stream = file.add_stream("h264", rate=fps, options={"crf": "16"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            pixels = np.asarray(frame.convert("RGB"))
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode())


def comment_of(path: Path) -> str | None:
    """The recipe in an MP4."""
    av = require_mp4()
    try:
        with av.open(str(path)) as file:
            text: str | None = file.metadata.get("comment")
    except av.error.FFmpegError as error:
        raise OSError(str(error)) from error
    return text
