"""The exponential moving average of the trained weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from sgm_core.roles import Average
from sgm_core.training.sharding import local

if TYPE_CHECKING:
    from typing import Self

_SHADOW = "shadow."


class EMA(Average):
    """shadow -= (1 - d) * (shadow - parameter), once per optimizer step n = 1, 2, ...

    d is `decay`; with warm-up d = min(decay, (1 + n) / (10 + n)), the rule of TensorFlow's
    `ExponentialMovingAverage(decay, num_updates)`, so that the start is forgotten within some steps.

    A shadow is float32 whatever the parameter is (float64 for a float64 one): in bfloat16 a step of 1e-4 of the
    difference would round to nothing. It starts from the parameter's value when `track` is called, moves with the
    module, and is saved under the parameter's own name, `shadow.model.diffusion_model.out.2.weight`, beside
    `num_updates`: neither can collide with the other, whatever a parameter is called.

    What is averaged is decided by `track` and nothing else. A parameter that is frozen later stays averaged (its shadow
    runs into the constant value); one that is unfrozen later is not until `track` is called again. Buffers are not
    averaged: a running statistic, as BatchNorm has, would have to be measured again for the averaged weights.

    The shadows are no buffers of the module, whose names may not have dots; and DDP would broadcast buffers before
    every forward, although the ranks' shadows are equal as their parameters are.

    Args:
        decay: the weight of the past in one step, in [0, 1).
        warmup: whether the first steps use a smaller one.
    """

    def __init__(self, decay: Annotated[float, Ge(0), Lt(1)] = 0.9999, warmup: bool = True) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}; it must be at least 0 and below 1, e.g. 0.9999")
        self.decay = decay
        self.warmup = warmup
        self.num_updates = 0
        self._tracked: dict[str, nn.Parameter] = {}
        self._shadows: dict[str, Tensor] = {}  # filled before `track` by loading a state
        self._waiting: list[Tensor] = []  # while swapped: the parameters' own storages
        self._live: dict[str, Tensor] = {}  # while swapped: live values of sharded parameters that no shadow can hold
        self._swapped = False

    @property
    def swapped(self) -> bool:
        """Whether the parameters hold the averaged values at present."""
        return self._swapped

    @torch.no_grad()
    def track(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Average these parameters from now on, from their present values.

        A state that was loaded before the first call is taken up: the parameters that it names go on from the
        loaded shadows (with a warning where its names are not just these). Later calls start afresh.

        Raises:
            ValueError: no parameters; the loaded shadow of one has another shape.
        """
        self._expect_live("track")
        if not parameters:
            raise ValueError("there is no parameter to average; does any of the model's require a gradient?")
        # tied weights, one parameter under two names, count once: swapped twice, the live value would be lost
        first: dict[nn.Parameter, str] = {}
        for name, parameter in parameters.items():
            first.setdefault(parameter, name)
        tracked = {name: parameter for parameter, name in first.items()}
        loaded = {} if self._tracked else self._shadows
        for name in loaded.keys() & tracked.keys():
            if loaded[name].shape != tracked[name].shape:
                raise ValueError(
                    f"the loaded average of '{name}' has shape {tuple(loaded[name].shape)}, "
                    f"the parameter {tuple(tracked[name].shape)}"
                )
        if loaded and loaded.keys() != tracked.keys():
            warnings.warn(_difference(set(loaded), set(tracked)), stacklevel=2)
        if not loaded:
            self.num_updates = 0
        self._tracked = tracked
        self._shadows = {
            name: loaded.get(name, p.detach()).to(device=p.device, dtype=_precise(p.dtype), copy=True)
            for name, p in tracked.items()
        }

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Parameters and their shadows, which `track` has put in one order."""
        return zip(self._tracked.values(), self._shadows.values(), strict=True)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the present values. The step counter is a Python number: nothing waits for the device."""
        self._expect_live("update")
        self._expect_tracked("update")
        self.num_updates += 1
        n = self.num_updates
        d = min(self.decay, (1 + n) / (10 + n)) if self.warmup else self.decay
        shadows: list[Tensor] = []
        parameters: list[Tensor] = []
        for parameter, shadow in self._pairs():
            if hasattr(parameter, "to_local"):
                parameter, shadow = local(parameter), local(shadow)
            if parameter.dtype is shadow.dtype and parameter.device == shadow.device:  # a call would cost as much again
                shadows.append(shadow)
                parameters.append(parameter)
            else:  # one at a time: a float32 copy of a whole bfloat16 model would be large
                shadow.lerp_(parameter.to(shadow), 1 - d)
        if shadows:
            get_ema_multi_avg_fn(d)(shadows, parameters, None)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def reset(self) -> None:
        """Start afresh from the present values, and from the warm-up if there is one."""
        self._expect_live("reset")
        self._expect_tracked("reset")
        self.num_updates = 0
        for name, parameter in self._tracked.items():
            self._shadows[name].copy_(parameter)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange averaged and live values; the second call restores both, bit for bit.

        A parameter of its shadow's dtype is that shadow in between, while its own storage waits, and no memory is used.
        One of lower precision gets a rounded copy. A sharded one (FSDP2) is known to others by its storage: values
        change places, of one parameter at a time.
        The `Parameter` objects stay the same, so that an optimizer's state and DDP's gradient buckets, which
        hang on them, do not notice; after the second call each has its own storage again.
        """
        self._expect_tracked("swap")
        for name, tracked in self._tracked.items():
            if hasattr(tracked, "to_local"):
                self._swap_values(name, local(tracked.detach()), local(self._shadows[name]))
        whole = [parameter for parameter in self._tracked.values() if not hasattr(parameter, "to_local")]
        if self._swapped:
            for parameter, own in zip(whole, self._waiting, strict=True):
                parameter.data = own
            self._waiting = []
        else:
            shadows = [shadow for parameter, shadow in self._pairs() if not hasattr(parameter, "to_local")]
            self._waiting = [parameter.data for parameter in whole]
            for parameter, shadow in zip(whole, shadows, strict=True):
                alike = parameter.dtype is shadow.dtype and parameter.device == shadow.device
                parameter.data = shadow if alike else shadow.to(parameter)
        self._swapped = not self._swapped

    def _swap_values(self, name: str, parameter: Tensor, shadow: Tensor) -> None:
        if name in self._live:
            parameter.copy_(self._live.pop(name))
        elif _alike(parameter, shadow):
            live = parameter.clone()
            parameter.copy_(shadow)
            shadow.copy_(live)
        else:
            self._live[name] = parameter.clone()
            parameter.copy_(shadow)

    def extra_repr(self) -> str:
        return f"decay={self.decay}, warmup={self.warmup}, tracked={len(self._tracked)}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow `.to(device)`, but not `.half()`."""
        self._expect_live("move or cast")
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, shadow in self._shadows.items():
            moved = fn(shadow)
            self._shadows[name] = moved if moved.dtype == shadow.dtype else shadow.to(moved.device)
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        # the model's part of a state dict would hold the averages as if they were the live weights
        self._expect_live("save")
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}num_updates"] = torch.tensor(self.num_updates)
        for name, shadow in self._shadows.items():
            destination[f"{prefix}{_SHADOW}{name}"] = shadow

    @torch.no_grad()
    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        self._expect_live("load")
        start, counter = prefix + _SHADOW, f"{prefix}num_updates"
        found = {key.removeprefix(start): value for key, value in state_dict.items() if key.startswith(start)}
        if counter in state_dict:
            self.num_updates = int(state_dict[counter])
        elif strict:
            missing_keys.append(counter)
        if not self._tracked:
            self._shadows = {
                name: value.detach().to(dtype=_precise(value.dtype), copy=True) for name, value in found.items()
            }
        else:
            for name, shadow in self._shadows.items():
                if name not in found:
                    if strict:
                        missing_keys.append(start + name)
                elif found[name].shape != shadow.shape:
                    error_msgs.append(
                        f"size mismatch for {start}{name}: {tuple(found[name].shape)} in the checkpoint, "
                        f"{tuple(shadow.shape)} in the model"
                    )
                else:
                    shadow.copy_(found[name])
            if strict:
                unexpected_keys.extend(start + name for name in found if name not in self._shadows)
        rest = {key: value for key, value in state_dict.items() if key != counter and not key.startswith(start)}
        super()._load_from_state_dict(rest, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)

    def _expect_live(self, action: str) -> None:
        if self._swapped:
            raise RuntimeError(f"cannot {action} while the averaged weights are swapped in: call swap() first")

    def _expect_tracked(self, action: str) -> None:
        if not self._tracked:
            raise RuntimeError(f"cannot {action} before track() has said which parameters are averaged")


def _precise(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.device == b.device


def _difference(loaded: set[str], tracked: set[str]) -> str:
    message = "the loaded average is not of the parameters that are tracked:"
    if tracked - loaded:
        message += f" {len(tracked - loaded)} start from their present values (e.g. '{min(tracked - loaded)}')"
    if loaded - tracked:
        message += (
            f"{' and' if tracked - loaded else ''} {len(loaded - tracked)} are dropped (e.g. '{min(loaded - tracked)}')"
        )
    return message
