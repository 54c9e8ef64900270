"""What the network is told beside the noisy image: one typed object, from the conditioner to the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """The conditioning of a batch of b samples.

    Attributes:
        vector: (b, d), added to the noise-level embedding (`y` of a U-Net).
        crossattn: (b, tokens, d), attended to (`context` of a U-Net).
        concat: (b, c, *grid), joined to the network's input on the channel axis.
        extras: further keyword arguments of the network; tensors among them have b rows, other values
            (a frame count) are the same for the whole batch.
        source: the entries of the batch that it was made of, nothing dropped, where the conditioner tells: another
            model that guides may have embedders of its own for them. Parts and batches of several have none.
    """

    vector: Tensor | None = None
    crossattn: Tensor | None = None
    concat: Tensor | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)
    source: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)

    def map(self, fn: Callable[[Tensor], Tensor]) -> Conditioning:
        """Apply `fn` to every tensor."""
        vector, crossattn, concat = (None if t is None else fn(t) for t in (self.vector, self.crossattn, self.concat))
        extras = {k: fn(v) if isinstance(v, Tensor) else v for k, v in self.extras.items()}
        return Conditioning(vector, crossattn, concat, extras)

    def __getitem__(self, rows: slice | Tensor) -> Conditioning:
        """The conditioning of some samples of the batch: `cond[:4]`."""
        return self.map(lambda tensor: tensor[rows])

    def to(self, *args: Any, **kwargs: Any) -> Conditioning:
        """Every tensor through `Tensor.to`."""
        return self.map(lambda tensor: tensor.to(*args, **kwargs))

    def with_extras(self, **extras: Any) -> Conditioning:
        """A copy with more keyword arguments for the network."""
        return replace(self, extras={**self.extras, **extras})

    @staticmethod
    def cat(parts: Iterable[Conditioning]) -> Conditioning:
        """Join batches of samples, in order; all parts have the same entries.

        Raises:
            ValueError: an entry is present in some parts only, or a value that is no tensor differs.
        """
        parts = list(parts)
        first = parts[0]
        if any(part.extras.keys() != first.extras.keys() for part in parts):
            keys = " and ".join(str(sorted(part.extras)) for part in parts)
            raise ValueError(f"conditionings cannot be joined: their extras differ, {keys}")

        def join(name: str, values: list[Any]) -> Any:
            if all(isinstance(value, Tensor) for value in values):
                return torch.cat(values)
            if any(isinstance(value, Tensor) for value in values) or any(value != values[0] for value in values):
                raise ValueError(f"conditionings cannot be joined: {name} differs")
            return values[0]

        names = ("vector", "crossattn", "concat")
        vector, crossattn, concat = (join(f"'{name}'", [getattr(part, name) for part in parts]) for name in names)
        extras = {key: join(f"extras['{key}']", [part.extras[key] for part in parts]) for key in first.extras}
        return Conditioning(vector, crossattn, concat, extras)


def as_entry(value: Any) -> Any:
    """A batch entry as the conditioner expects it: numbers become a tensor, strings stay a list.

    Raises:
        ValueError: what is neither, such as nothing at all, lists of several lengths, or a number above 64 bits.
    """
    if isinstance(value, Tensor):
        return value
    values = list(value)
    if any(isinstance(v, str) for v in values):
        return values
    try:
        numbers = torch.as_tensor(values)
        half = numbers.dtype in (torch.half, torch.bfloat16)  # Lightning's bf16-true: a width of 1025 would be 1024
        return torch.as_tensor(values, dtype=torch.float32) if half else numbers
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{str(values)[:60]}: neither texts nor numbers of one shape ({error})") from error


def batch_size_of(entries: Mapping[str, Any], n: int | None) -> int:
    """The number of samples that all entries agree on."""
    sizes = {key: len(value) for key, value in entries.items()}
    if n is None and not sizes:
        raise ValueError("how many images? pass n, or a batch of conditions")
    n = next(iter(sizes.values())) if n is None else n
    if any(size != n for size in sizes.values()):
        raise ValueError(f"{n} images, but the entries hold {sizes}: give {n} values of each")
    return n
