"""The plan of a U-Net: what stands on each resolution, checked before anything is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

from annotated_types import Ge

from sgm_plugins.networks.group_norm import GROUPS

Count = Annotated[int, Ge(1)]

Place = Literal["down", "middle", "up"]
"""Where in the network a block stands."""


class Levels(NamedTuple):
    """The resolutions of a U-Net, the finest first. Level i is at 1 / 2**i of the size.

    Attributes:
        stem: channels before the first level.
        widths: channels of each level.
        res_blocks: residual blocks of each level on the way down; one more on the way up.
        depths: blocks of each transformer of a level.
        transformers: how many of its residual blocks, at most, are followed by a transformer.
    """

    stem: int
    widths: list[int]
    res_blocks: list[int]
    depths: list[int]
    transformers: list[int]

    @staticmethod
    def plan(
        model_channels: int,
        channel_mult: Sequence[int],
        num_res_blocks: int | Sequence[int],
        attention_resolutions: Sequence[int],
        transformer_depth: int | Sequence[int],
        num_attention_blocks: Sequence[int] | None = None,
    ) -> Levels:
        """The levels that these arguments of a network mean; `unet.UNet` explains them.

        Raises:
            ValueError: arguments that do not fit each other; the message has the numbers.
        """
        widths = [model_channels * mult for mult in channel_mult]
        levels = len(widths)
        factors = [2**level for level in range(levels)]
        res_blocks = per_level("num_res_blocks", num_res_blocks, levels, least=1)
        depths = per_level("transformer_depth", transformer_depth, levels, least=0)
        if not levels or any(width < 1 or width % GROUPS for width in [model_channels, *widths]):
            raise ValueError(
                f"model_channels {model_channels} and channel_mult {list(channel_mult)} give levels of {widths} "
                f"channels; there must be one or more, each of a multiple of {GROUPS}, and so must model_channels be"
            )
        if not set(attention_resolutions) <= set(factors):
            raise ValueError(
                f"attention_resolutions is {list(attention_resolutions)}; the {levels} levels of this network have the "
                f"downsampling factors {factors}"
            )
        transformers = [n + 1 for n in res_blocks]
        if num_attention_blocks is not None:
            transformers = per_level("num_attention_blocks", num_attention_blocks, levels, least=0)
            if any(n > most for n, most in zip(transformers, res_blocks, strict=True)):
                raise ValueError(f"num_attention_blocks {transformers} exceeds num_res_blocks {res_blocks}")
        attends = [factor in attention_resolutions for factor in factors]
        transformers = [n if here else 0 for n, here in zip(transformers, attends, strict=True)]
        return Levels(model_channels, widths, res_blocks, depths, transformers)

    def depth(self, level: int, place: Place, middle: int | None) -> int:
        """Blocks of a transformer there; `middle` is how many the middle block's has, None: as many as the level's."""
        return middle if place == "middle" and middle is not None else self.depths[level]


class Heads(NamedTuple):
    """How many heads an attention has: by their number or by their width; -1 is unset.

    Attributes:
        num_heads: of every attention, unless their width is given.
        num_head_channels: width of a head.
        num_heads_upsample: `num_heads` of the way up; -1: the same.
    """

    num_heads: int
    num_head_channels: int
    num_heads_upsample: int = -1

    def check(self, attention_resolutions: Sequence[int]) -> None:
        """
        Raises:
            ValueError: a number below 1, or none where there are transformers.
        """
        if any(n != -1 and n < 1 for n in self):
            raise ValueError(
                f"num_heads {self.num_heads}, num_head_channels {self.num_head_channels}, num_heads_upsample "
                f"{self.num_heads_upsample}: each is at least 1, or -1 for unset"
            )
        if attention_resolutions and self.num_heads == self.num_head_channels == -1:
            raise ValueError(
                f"attention_resolutions is {list(attention_resolutions)}, and num_heads and num_head_channels are both "
                "unset (-1): set one of them"
            )

    def at(self, channels: int, place: Place) -> int:
        """How many heads a transformer of so many channels has.

        Raises:
            ValueError: they would not be of equal width.
        """
        if self.num_head_channels != -1:
            if channels % self.num_head_channels:
                raise ValueError(
                    f"num_head_channels {self.num_head_channels} does not divide a level's {channels} channels"
                )
            return channels // self.num_head_channels
        heads = self.num_heads if place != "up" or self.num_heads_upsample == -1 else self.num_heads_upsample
        heads = 1 if heads == -1 else heads
        if channels % heads:
            raise ValueError(f"num_heads {heads} does not divide a level's {channels} channels")
        return heads


def per_level(name: str, value: int | Sequence[int], levels: int, least: int) -> list[int]:
    """One value for each level.

    Raises:
        ValueError: not one number, nor as many as there are levels, or a number below `least`.
    """
    values = [value] * levels if isinstance(value, int) else list(value)
    if len(values) != levels or isinstance(value, bool):
        raise ValueError(f"{name} is {value}; channel_mult has {levels} levels: give {levels} values")
    if min(values, default=least) < least:
        raise ValueError(f"{name} is {value}; each is at least {least}")
    return values


def one_width(context_dim: int | Sequence[int] | None) -> int | None:
    """The one width of the context's tokens.

    Raises:
        ValueError: there are several.
    """
    if context_dim is None or isinstance(context_dim, int):
        return context_dim
    if len(set(context_dim)) != 1:
        raise ValueError(
            f"context_dim is {list(context_dim)}; there is one context for all transformers: give one number"
        )
    return context_dim[0]
