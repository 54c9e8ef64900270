"""Noise from an explicit source, so that the same seed gives the same sample whatever else runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from sgm_core.randomness import samples

Generators = torch.Generator | Sequence[torch.Generator] | None
"""One generator for the batch, one per sample (then a sample does not depend on its batch), or none.

None is the samples' own numbers where there are such, in a training step (`sgm_core.randomness.samples`); else
torch's global random state.
"""


def randn(shape: Sequence[int], generator: Generators = None, *, like: Tensor | None = None) -> Tensor:
    """Standard normal noise of `shape`, on the device and of the dtype of `like`, or float32.

    A generator on another device (a CPU generator, say, for noise that is equal on every machine) draws
    there; the noise is then moved, without waiting for it. In a training step, without a generator, each sample has
    numbers of its own, whatever shares its batch; not so inside activation checkpoints, which draw again later.

    Raises:
        ValueError: the number of per-sample generators is not `shape[0]`.
    """
    device = like.device if like is not None else torch.device("cpu")
    dtype = like.dtype if like is not None else torch.float32
    if generator is None:
        own = samples.current().draw(shape, dtype, device, 2, samples.normal, lambda row, g: row.normal_(generator=g))
        return torch.randn(*shape, device=device, dtype=dtype) if own is None else own
    if isinstance(generator, torch.Generator):
        noise = torch.randn(*shape, generator=generator, device=generator.device, dtype=dtype)
    elif len(generator) == shape[0]:
        noise = torch.stack([torch.randn(*shape[1:], generator=g, device=g.device, dtype=dtype) for g in generator])
    else:
        raise ValueError(f"{len(generator)} generators for a batch of {shape[0]}: give one per sample")
    return move(noise, device)


def move(tensor: Tensor, device: torch.device) -> Tensor:
    """To a device, without waiting for it where the tensor is on the host: the other way round that would be a race."""
    return tensor.to(device, non_blocking=tensor.device.type == "cpu")


def randn_like(x: Tensor, generator: Generators = None) -> Tensor:
    """Standard normal noise with the shape, dtype and device of `x`."""
    return randn(x.shape, generator, like=x)


def randint(
    high: int, shape: Sequence[int], generator: torch.Generator | None = None, *, device: torch.device | str = "cpu"
) -> Tensor:
    """Integers in 0..high-1 (int64), high up to 2^31. Sources as of `randn`."""
    device = torch.device(device)
    if generator is None:
        numbers = samples.integers(high)
        own = samples.current().draw(
            shape, torch.int64, device, 1, numbers, lambda row, g: row.random_(high, generator=g)
        )
        return torch.randint(high, tuple(shape), device=device) if own is None else own
    return move(torch.randint(high, tuple(shape), generator=generator, device=generator.device), device)


def bernoulli(
    p: float, shape: Sequence[int], generator: torch.Generator | None = None, *, device: torch.device | str = "cpu"
) -> Tensor:
    """True with probability p, of `shape`. Sources as of `randn`."""
    device = torch.device(device)
    if generator is None:
        own = samples.current().draw(
            shape, torch.float32, device, 1, samples.uniform, lambda row, g: row.uniform_(generator=g)
        )
        if own is not None:
            return own < p
    at = device if generator is None else generator.device
    chances = p * torch.ones(*shape, dtype=torch.float32, device=at)
    return move(torch.bernoulli(chances, generator=generator).bool(), device)


def exponential_like(x: Tensor) -> Tensor:
    """Exponentially distributed numbers of rate 1 with the shape and device of `x`, float32 at least: half precision
    rounds small ones to 0. Sources as of `randn`, without a generator."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    own = samples.current().draw(
        x.shape, dtype, x.device, 1, samples.exponential, lambda row, g: row.exponential_(generator=g)
    )
    return torch.empty_like(x, dtype=dtype).exponential_() if own is None else own


@contextmanager
def own_random_state(device: torch.device) -> Iterator[None]:
    """Inside, whatever is drawn leaves torch's random states, of the CPU and of `device`, as they were."""
    state = torch.mps.get_rng_state() if device.type == "mps" else None  # it has no numbered devices for `fork_rng`
    fork = torch.random.fork_rng
    try:
        with fork([]) if device.type in ("cpu", "meta", "mps") else fork([device], device_type=device.type):
            yield
    finally:
        if state is not None:
            torch.mps.set_rng_state(state)


def seed_of(key: Sequence[int | str]) -> int:
    """A seed of 64 bits. Keys that differ, in length too, have other seeds."""
    return int.from_bytes(hashlib.sha256(repr(tuple(key)).encode()).digest()[:8], "little")


@contextmanager
def draws_of(key: Sequence[int | str], device: torch.device) -> Iterator[None]:
    """Inside, whatever is drawn from torch's random states is a function of `key` alone; outside nothing was drawn.

    Draws that take no generator (`nn.Dropout`, parts that call `torch.randn`) are among them. No generator is given
    out: one on an accelerator would make what is drawn for texts, on the host, wait for it; and one of the same seed as
    the global state would give the numbers of the noise to the first dropout too.

    Args:
        key: say seed, step and rank; see `seed_of`.
        device: where is drawn, beside the CPU.
    """
    seed = seed_of(key)
    with own_random_state(device):
        torch.default_generator.manual_seed(seed)  # `torch.manual_seed` takes 0.2 ms, and seeds every other device too
        if device.type not in ("cpu", "meta"):
            torch.get_device_module(device).manual_seed(seed)
        yield
