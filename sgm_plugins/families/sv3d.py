"""SV3D: Voleti et al. 2024, arXiv:2403.12008."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from sgm_core.checkpoints.family import Model, Request
from sgm_core.errors import SgmError
from sgm_plugins.families.stable_diffusion import BARE, own
from sgm_plugins.families.unet import video_network
from sgm_plugins.families.video import ENCODER, FRAMES, VideoFamily

ELEVATION, NOISE = 10.0, 1e-5
"""Degrees above the object, and the standard deviation of the noise in the given image."""

_FRAME = r"conditioner\.embedders\.1\.encoder\."


class _SV3D(VideoFamily, ABC):
    license = "Stability AI Community License"
    options: ClassVar = {"cond_aug": "cond_aug"}

    def entries(self, request: Request) -> Mapping[str, Any]:
        """See `Family`."""
        return {"cond_aug": request.options.get("cond_aug", NOISE)}


class SV3DU(_SV3D):
    """SV3D-u: views once around an object, at the height of the given one."""

    title = "SV3D-u"
    forms = (own(FRAMES, _FRAME), BARE)
    models = (Model("SV3D-u", "sv3d_u", {**video_network(256), ENCODER: None}),)


class SV3DP(_SV3D):
    """SV3D-p: views of an object from cameras whose angles are given."""

    title = "SV3D-p"
    forms = (own(FRAMES, _FRAME), BARE)
    models = (Model("SV3D-p", "sv3d_p", {**video_network(1280), ENCODER: None}),)
    options: ClassVar = {**_SV3D.options, "elevations": "polars_rad", "azimuths": "azimuths_rad"}

    def entries(self, request: Request) -> Mapping[str, Any]:
        """See `Family`. Azimuths are as seen from the given image, which the last view comes back to."""
        frames = request.frames
        above = request.options.get("elevations", (ELEVATION,))
        around = request.options.get("azimuths", tuple(360 * (i + 1) / frames for i in range(frames)))
        _check_count("elevations", above, frames, one=True)
        _check_count("azimuths", around, frames, one=False)
        polars = [math.radians(90 - degrees) for degrees in above]
        return {
            **super().entries(request),
            "polars_rad": polars * frames if len(polars) == 1 else polars,
            "azimuths_rad": [math.radians((degrees - around[-1]) % 360) for degrees in around],
        }


def _check_count(name: str, angles: Sequence[float], frames: int, one: bool) -> None:
    if len(angles) != frames and not (one and len(angles) == 1):
        raise SgmError(f"{len(angles)} {name} for {frames} frames: give one per frame{', or one' if one else ''}")
