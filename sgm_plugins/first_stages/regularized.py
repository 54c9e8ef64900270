"""What first stages that can be trained have in common: encoder, regularizer, decoder."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

from torch import Tensor, nn

from sgm_core.checkpoints.restoring import load_part
from sgm_core.roles import Decoder, Encoder, FirstStage, Regularizer
from sgm_plugins.autoencoding.tiling import Tiling, in_chunks, tiled


class Autoencoded(NamedTuple):
    """One pass through an autoencoder.

    `log` is the regularizer's: its losses, under names that end in `_loss`, and statistics; all of them tensors.
    """

    reconstruction: Tensor
    z: Tensor
    log: dict[str, Any]


class RegularizedFirstStage(FirstStage):
    """Encoder, regularizer and decoder. `encode` and `decode` are for a frozen one, `autoencode` is for training it.

    All of its parameters are for training, `parameters()`; those of quantizing convolutions too.

    Args:
        encoder: images to what the regularizer takes; None: it decodes only.
        decoder: latents to images.
        regularizer: between them.
        chunk: samples that go through encoder or decoder at once; None: all of them.
        tiling: parts of an image that go through at once; None: all of it. Encoder and decoder then need an attribute
            `factor`, the pixels per side of a latent's cell.
    """

    def __init__(
        self,
        encoder: Encoder | None,
        decoder: Decoder,
        regularizer: Regularizer,
        chunk: int | None,
        tiling: Tiling | None,
    ) -> None:
        super().__init__()
        self.encoder = cast(nn.Module | None, encoder)
        self.decoder = cast(nn.Module, decoder)
        self.regularization = regularizer  # the name that checkpoints use
        self.chunk = chunk
        self.tiling = tiling
        self._check_factors()

    def start_from(self, weights: Path | None) -> None:
        """Take the weights of a file or a run, unless there is none; the last thing that a constructor does."""
        if weights is not None:
            unused = ("encoder.",) if self.encoder is None else ()
            # latent diffusion's own files have beside it the loss that it was trained with
            load_part(self, weights, "first_stage_model.", ignore=("loss.", *unused))

    @contextmanager
    def in_tiles(self, size: int) -> Iterator[None]:
        """Inside, it works in tiles of `size` cells that overlap by a quarter, whatever it was built with.

        Raises:
            ValueError: a half without an attribute `factor`.
        """
        tiling, self.tiling = self.tiling, Tiling(size, size // 4)
        try:
            self._check_factors()
            yield
        finally:
            self.tiling = tiling

    def encode(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) in [-1, 1] -> latents. Random where the regularizer is."""
        return self.encode_with_log(x)[0]

    def encode_with_log(self, x: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """The latents of `encode`, and the regularizer's log."""
        z, log = self.regularization(self.moments(x))
        return z, log

    def autoencode(self, x: Tensor, **kwargs: Any) -> Autoencoded:
        """Encode, regularize and decode, each once. `kwargs` as those of `decode`."""
        z, log = self.encode_with_log(x)
        return Autoencoded(self.decode(z, **kwargs), z, log)

    def moments(self, x: Tensor) -> Tensor:
        """What the encoder says of the images, before the regularizer.

        Raises:
            ValueError: this first stage has no encoder.
        """
        if self.encoder is None:
            raise ValueError("this first stage has no encoder: it can only decode")
        return self._in_parts(self._encode, x, self.chunk, down=self._factor(self.encoder))

    def decode(self, z: Tensor, **kwargs: Any) -> Tensor:
        """Latents -> images (b, c, h, w) in [-1, 1], whatever else a temporal decoder would be told."""
        return self._in_parts(self._decode, z, self.chunk, up=self._factor(self.decoder))

    @abstractmethod
    def _encode(self, x: Tensor) -> Tensor:
        """Images -> what the regularizer takes."""

    @abstractmethod
    def _decode(self, z: Tensor) -> Tensor:
        """Latents -> images."""

    @property
    def last_layer(self) -> Tensor:
        """The decoder's last weight, by whose gradients a discriminator's loss is balanced.

        Raises:
            ValueError: the decoder does not say which it is.
        """
        last: Tensor | None = getattr(self.decoder, "last_layer", None)
        if last is None:
            raise ValueError(f"{type(self.decoder).__name__} has no attribute `last_layer`, its last weight")
        return last

    def _check_factors(self) -> None:
        for half in (self.encoder, self.decoder):
            if self.tiling is not None and half is not None and not hasattr(half, "factor"):
                raise ValueError(
                    f"tiling needs to know the pixels per side of a latent's cell; give {type(half).__name__} an "
                    "attribute `factor`"
                )

    def _factor(self, half: nn.Module) -> int:
        """Pixels per side of a latent's cell; nobody asks without tiling."""
        return 1 if self.tiling is None else int(half.factor)  # type: ignore[arg-type]

    def _in_parts(
        self, fn: Callable[[Tensor], Tensor], x: Tensor, chunk: int | None, *, down: int = 1, up: int = 1
    ) -> Tensor:
        return in_chunks(partial(tiled, fn, tiling=self.tiling, down=down, up=up), x, chunk)
