"""Random numbers that belong to samples: they do not depend on how a step's samples are spread over processes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Bits = NDArray[np.uint64]

SMALL = 128
"""Numbers of a row up to which all rows are drawn together, on the host: a generator per row costs 3 us for each."""


class SampleDraws:
    """What the samples of a batch draw: a function of (key, sample, how many draws came before), and of nothing else.

    Rows (k * b, ...) are k consecutive rows of each of the b samples, as the frames of a clip are. Each row has its own
    place in the stream of a counter-based generator, Philox (Salmon et al. 2011, "Parallel random numbers: as easy as
    1, 2, 3"): short rows read their numbers there, on the host; long ones the seed of a generator on their device. So
    nothing waits for the device, and no process draws what belongs to another.

    Args:
        key: say seed and optimizer step.
        samples: b; 0 where no sample draws.
        first: the place of the first of them among all samples of the step.
        part: which of the step's batches this is, of all processes and micro-batches, and how many there are.
    """

    def __init__(self, key: Sequence[int], samples: int, first: int, part: tuple[int, int] = (0, 1)) -> None:
        self.key = tuple(key)
        self.samples = samples
        self.first = first
        self.part = part
        self._drawn = 0
        self._part: tuple[int, int, int] | None = None  # rows (begin, end) of how many are at hand, see `in_chunks`
        self._generators: dict[torch.device, torch.Generator] = {}

    def draw(
        self,
        shape: Sequence[int],
        dtype: torch.dtype,
        device: torch.device,
        per_number: int,
        from_bits: Callable[[Bits], NDArray[np.generic]],
        fill: Callable[[Tensor, torch.Generator], object],
    ) -> Tensor | None:
        """A tensor of random numbers; none if its rows are not those of the samples.

        Args:
            per_number: how many numbers come from 64 random bits.
            from_bits: bits (n, m) -> numbers (n, m * per_number).
            fill: draws a row in place.
        """
        rows = self._rows(shape)
        if rows is None or device.type == "meta":
            return None
        n, length = shape[0], math.prod(shape[1:])
        small = length <= SMALL
        bits = self._bits(rows, n, -(-length // per_number) if small else 1)
        if small:
            numbers = torch.from_numpy(np.ascontiguousarray(from_bits(bits)[:, :length])).to(dtype).reshape(*shape)
            return numbers.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else numbers.to(device)
        generator = self._generators.get(device)
        if generator is None:
            generator = self._generators[device] = torch.Generator(device)
        out = torch.empty(*shape, dtype=dtype, device=device)
        for row, seed in zip(out.unbind(0), bits[:, 0].tolist(), strict=True):
            fill(row, generator.manual_seed(seed))
        return out

    def _rows(self, shape: Sequence[int]) -> int | None:
        """The place of the first row among the rows of the step; none if these are no rows of the samples."""
        if not self.samples or not shape or not shape[0]:
            return None
        begin, end, total = self._part or (0, shape[0], shape[0])
        if end - begin != shape[0] or total % self.samples:
            return None
        return self.first * (total // self.samples) + begin

    def _bits(self, row: int, n: int, length: int) -> Bits:
        """(n, length) random bits of the n rows from `row` on; the next draw has others."""
        digest = hashlib.sha256(repr((*self.key, self._drawn)).encode()).digest()
        self._drawn += 1
        blocks = -(-length // 4)  # a step of the counter gives four numbers
        counter = np.array([row * blocks, 0, 0, 0], dtype=np.uint64)
        philox = np.random.Philox(key=np.frombuffer(digest[:16], dtype="<u8"), counter=counter)
        return philox.random_raw(4 * n * blocks).reshape(n, 4 * blocks)[:, :length]

    def chunks(self, x: Tensor, size: int) -> Iterator[Tensor]:
        """See `in_chunks`."""
        before, drawn, most = self._part, self._drawn, self._drawn
        start, end, total = before or (0, len(x), len(x))
        if end - start != len(x):  # not of the rows that are being worked on
            yield from torch.split(x, size)
            return
        for begin in range(0, len(x), size):
            chunk = x[begin : begin + size]
            self._part, self._drawn = (start + begin, start + begin + len(chunk), total), drawn
            try:
                yield chunk
                most = max(most, self._drawn)
            except GeneratorExit:  # closed before its end, to be started again: as if nothing had been drawn
                most = drawn
                raise
            finally:
                self._part, self._drawn = before, most


_NOBODYS = SampleDraws((), 0, 0)

_current: ContextVar[SampleDraws] = ContextVar("sample_draws", default=_NOBODYS)


@contextmanager
def sample_draws(draws: SampleDraws | None) -> Iterator[None]:
    """Inside, `sgm_core.randomness` draws from these where no generator is given; with None from torch's states."""
    token = _current.set(draws or _NOBODYS)
    try:
        yield
    finally:
        _current.reset(token)


def current() -> SampleDraws:
    """What is drawn from at present."""
    return _current.get()


def in_chunks(x: Tensor, size: int | None) -> Generator[Tensor, None, None]:
    """Chunks of at most `size` rows, to be worked on one after the other: each row draws what it would in one piece."""
    size, draws = size or max(len(x), 1), _current.get()
    yield from draws.chunks(x, size) if draws.samples else torch.split(x, size)


# --- numbers of random bits ----------------------------------------------------------------------------------------


def uniform(bits: Bits) -> NDArray[np.float64]:
    """In [0, 1), with 24 random bits: float32 holds each of them."""
    return (bits >> np.uint64(40)).astype(np.float64) * 2.0**-24


def normal(bits: Bits) -> NDArray[np.float64]:
    """(n, m) -> (n, 2 m) standard normal: Box and Muller 1958."""
    radius = np.sqrt(-2 * np.log(((bits >> np.uint64(32)).astype(np.float64) + 1) * 2.0**-32))
    angle = (bits & np.uint64(0xFFFFFFFF)).astype(np.float64) * (2 * np.pi * 2.0**-32)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1).reshape(len(bits), -1)


def exponential(bits: Bits) -> NDArray[np.float64]:
    """Of rate 1, above 0."""
    return np.asarray(-np.log(((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53))


def integers(high: int) -> Callable[[Bits], NDArray[np.int64]]:
    """In 0..high-1, high up to 2^31."""
    return lambda bits: (((bits >> np.uint64(32)) * np.uint64(high)) >> np.uint64(32)).astype(np.int64)
