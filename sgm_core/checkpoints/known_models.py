"""Which public model a file is of: from its keys and shapes, never from its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sgm_core.checkpoints.layouts import FIRST_STAGE, NETWORK, own_names

_IN = f"{NETWORK}input_blocks.0.0.weight"
_VECTOR = f"{NETWORK}label_emb.0.0.weight"
_CONTEXT = f"{NETWORK}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"  # attention at the finest level
_COARSER = f"{NETWORK}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
_FRAMES = f"{NETWORK}input_blocks.1.1.time_stack.0.attn1.to_q.weight"
_TEMPORAL = f"{FIRST_STAGE}decoder.mid.block_1.time_stack.in_layers.0.weight"
_QUANT = f"{FIRST_STAGE}quant_conv.weight"
_ENCODER = f"{FIRST_STAGE}encoder.conv_in.weight"


class KnownModel(NamedTuple):
    """A model that people have files of.

    Attributes:
        title: for people.
        config: the shipped config; empty where there is none.
        network: keys of the network with their shapes; None: there is no such key.
        others: keys of other parts, which count where the file has that part at all.
    """

    title: str
    config: str
    network: Mapping[str, Sequence[int] | None]
    others: Mapping[str, Sequence[int] | None] = {}

    def fits(self, shapes: Mapping[str, Sequence[int]], parts: set[str]) -> bool:
        """Whether the shapes of a file, by our keys, are those of this model."""
        relevant = {key: shape for key, shape in self.others.items() if key.partition(".")[0] in parts}
        return all(
            (None if key not in shapes else tuple(shapes[key])) == (None if shape is None else tuple(shape))
            for key, shape in {**self.network, **relevant}.items()
        )


def _image(
    channels: int, width: int, vector: int | None, context: int | None, coarser: int | None = None
) -> dict[str, tuple[int, ...] | None]:
    """A U-Net for images: channels in, width, and the widths of its conditions."""
    return {
        _IN: (width, channels, 3, 3),
        _VECTOR: None if vector is None else (4 * width, vector),
        _CONTEXT: None if context is None else (width, context),
        **({} if coarser is None else {_COARSER: (2 * width, coarser)}),
        _FRAMES: None,
    }


def _video(vector: int) -> dict[str, tuple[int, ...] | None]:
    return {_IN: (320, 8, 3, 3), _VECTOR: (1280, vector), _FRAMES: (320, 320)}


KNOWN = (
    KnownModel("Stable Diffusion XL base", "sd_xl_base", _image(4, 320, 2816, None, 2048)),
    KnownModel("Stable Diffusion XL refiner", "sd_xl_refiner", _image(4, 384, 2560, None, 1280)),
    KnownModel("Stable Diffusion 2.1 base, 512", "sd_2_1", _image(4, 320, None, 1024)),
    KnownModel("Stable Diffusion 2.1, 768", "sd_2_1_768", _image(4, 320, None, 1024)),
    KnownModel("Stable Video Diffusion", "svd", _video(768), {_TEMPORAL: (512,), _QUANT: None}),
    KnownModel("Stable Video Diffusion with a decoder for images", "svd_image_decoder", _video(768), {_TEMPORAL: None}),
    KnownModel("SV3D-u", "sv3d_u", _video(256), {_ENCODER: None}),
    KnownModel("SV3D-p", "sv3d_p", _video(1280), {_ENCODER: None}),
    KnownModel("Stable Diffusion 1", "", _image(4, 320, None, 768)),
    KnownModel("Stable Diffusion 1 for inpainting", "", _image(9, 320, None, 768)),
    KnownModel("InstructPix2Pix", "", _image(8, 320, None, 768)),
    KnownModel("Stable Diffusion 2 for inpainting", "", _image(9, 320, None, 1024)),
    KnownModel("Stable Diffusion 2 with depth", "", _image(5, 320, None, 1024)),
    KnownModel("Stable Diffusion XL for inpainting", "", _image(9, 320, 2816, None, 2048)),
)
"""Two of them, Stable Diffusion 2.1 in its two sizes, have the same keys and shapes: one predicts the noise, the other
the velocity, and nothing in a file says which. svd and svd_xt are the same network for 14 and for 25 frames."""


def identify(shapes: Mapping[str, Sequence[int]]) -> list[KnownModel]:
    """The public models whose keys and shapes these are: none, one, or several that can not be told apart.

    The network decides; a file of a U-Net alone is that of its model, too.

    Args:
        shapes: by key, in the layout of generative-models or of latent diffusion.
    """
    names = own_names(shapes)
    ours = {names[key]: shape for key, shape in shapes.items()}
    if _IN not in ours:
        ours = {NETWORK + key: shape for key, shape in shapes.items()}  # a network alone, without its prefix
    parts = {key.partition(".")[0] for key in ours}
    return [model for model in KNOWN if model.fits(ours, parts)]
