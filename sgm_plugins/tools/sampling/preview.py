"""What a picture looks like while it is drawn: the present estimate, decoded by a tiny autoencoder."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from sgm_core.checkpoints.files import read_checkpoint
from sgm_core.conditioning import Conditioning
from sgm_core.errors import SgmError
from sgm_core.files import replacing
from sgm_core.pictures.labels import to_pil
from sgm_core.roles import Denoise, Guider
from sgm_plugins.first_stages.tiny import TinyDecoder
from sgm_plugins.tools.sampling.drawing import Drawing

Show = Callable[[int, Tensor], None]
"""show(step, images), of images (b, c, h, w) in about [-1, 1]."""

NAMES = ("diffusion_pytorch_model.safetensors", "taesd_decoder.safetensors")
"""Of the file in a folder."""

_LAYER = re.compile(r"(?:first_stage_model\.|taesd_)?(?:decoder\.)?(layers\.)?(\d+)\.(.+)")


class Watched(Guider):
    """Another guider, or none, whose estimates of x0 are seen."""

    def __init__(self, guider: Guider | None, see: Callable[[Tensor], None]) -> None:
        self.guider = guider
        self.see = see

    def __call__(self, denoise: Denoise, x: Tensor, sigma: Tensor, cond: Conditioning, uncond: Conditioning) -> Tensor:
        D = denoise(x, sigma, cond) if self.guider is None else self.guider(denoise, x, sigma, cond, uncond)
        self.see(D)
        return D

    def at(self, sigma: float) -> Guider:
        return Watched(None if self.guider is None else self.guider.at(sigma), self.see)

    def for_schedule(self, sigmas: Sequence[float]) -> Guider:
        return Watched(None if self.guider is None else self.guider.for_schedule(sigmas), self.see)


class Preview:
    """Decodes the present estimate of x0 after every few steps.

    Args:
        path: of a tiny autoencoder with the latents of the model: a file in the layout of diffusers or of its authors
            (the decoder), or a folder with one.
        show: gets the step and the images; or the file to write them to, side by side, each time anew.
        every: so many steps.

    Raises:
        SgmError: no such file, or no tiny autoencoder.
    """

    def __init__(self, path: Path | str, show: Show | Path, every: int = 5) -> None:
        if every < 1:
            raise SgmError(f"a preview after every {every} steps; it is at least 1")
        self.path = Path(path)
        self.decoder = read_decoder(self.path)
        self.show: Show = (lambda _, images: write(show, images)) if isinstance(show, Path) else show
        self.every = every
        self._latest: Tensor | None = None

    def watch(self, drawing: Drawing) -> None:
        """See what is drawn from now on.

        Raises:
            SgmError: the latents are others than those of the autoencoder.
        """
        first = self.decoder.layers[0]
        assert isinstance(first, nn.Conv2d)
        channels, takes = drawing.shape[0], first.in_channels
        if channels != takes:
            raise SgmError(f"{self.path}: it decodes latents of {takes} channels, and this model has {channels}")
        self.decoder.to(drawing.model.device)
        for sampler in drawing.samplers:
            sampler.guider = Watched(sampler.guider, self._see)

    def after(self, progress: Callable[[int, int], None] | None) -> Callable[[int, int], None]:
        """A callback `progress` that shows the preview, too."""

        def step(done: int, steps: int) -> None:
            if progress is not None:
                progress(done, steps)
            if self._latest is not None and (done % self.every == 0 or done == steps):
                with torch.no_grad(), torch.autocast(self._latest.device.type, enabled=False):
                    self.show(done, self.decoder(self._latest.float()))

        return step

    def _see(self, D: Tensor) -> None:
        self._latest = D


def write(path: Path, images: Tensor) -> None:
    """Images (b, c, h, w) in [-1, 1] side by side, as one file, whole at any time."""
    picture = to_pil(torch.cat([*images.clamp(-1, 1).cpu()], dim=-1))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG")


def read_decoder(path: Path) -> TinyDecoder:
    """The decoder of a tiny autoencoder of any size, in eval mode.

    Raises:
        SgmError: no such file, or no tiny autoencoder.
    """
    file = next((path / name for name in NAMES if (path / name).is_file()), path)
    if file.is_dir():
        raise SgmError(f"{path}: no tiny autoencoder here (looked for {', '.join(NAMES)})")
    layers: dict[int, dict[str, Tensor]] = {}
    for key, value in read_checkpoint(file).weights.items():
        found = _LAYER.fullmatch(key)
        if found is not None:
            # its authors count the bound of the latents as the first layer
            layers.setdefault(int(found[2]) - (0 if found[1] else 1), {})[found[3]] = value
    try:
        decoder = _decoder_like(layers)
        state = {f"layers.{n}.{name}": value for n, inner in layers.items() for name, value in inner.items()}
        decoder.load_state_dict(state)
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
        raise SgmError(f"{file}: no decoder of a tiny autoencoder (TAESD)") from error
    return decoder.eval().requires_grad_(False)


def _decoder_like(layers: Mapping[int, Mapping[str, Tensor]]) -> TinyDecoder:
    """Of the size of these layers: levels end with a convolution without bias."""
    first, last = layers[0]["weight"], layers[max(layers)]["weight"]
    blocks = [0]
    for n in sorted(layers)[1:-1]:
        if "weight" in layers[n]:
            blocks.append(0)
        else:
            blocks[-1] += 1
    return TinyDecoder(first.shape[1], last.shape[0], first.shape[0], blocks)
