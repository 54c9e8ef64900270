"""Frozen parts of a model that are computed once per content of the batch, and built only where that is needed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sgm_core.checkpoints.restoring import takes_weights
from sgm_core.config.recipes import recipe_of
from sgm_core.errors import SgmError
from sgm_core.slots import count_samples, describe
from sgm_plugins.cached.digests import carry_over, digests, join
from sgm_plugins.cached.identity import folder_name, identity, weights_digest
from sgm_plugins.cached.store import CacheWarning, Row, Store

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""How far a sample's output may be from what it is in another batch, by kernels that add in another order: relative to
the largest output."""


class CacheError(SgmError):
    """A part whose outputs cannot be cached; the message says why."""


class CachedPart:
    """A frozen part that is seldom built, and the store of its outputs.

    It is not a module: its weights are in no state dict, and no `to` moves them. Those that a checkpoint brought pass
    through to the next one, as they are; others are those of its config.

    Args:
        part: as a config gives it, or built by `sgm.build`.
        owner: stands for the part in the model; its buffer `anchor` has the device and dtype of the model at present.
        dir: its outputs are kept in a sub-folder of this one; None: nowhere.

    Attributes:
        read_only: take what is in the folder, and write nothing; to be set before the first outputs.
    """

    def __init__(self, part: Any, owner: Cached, dir: Path | None) -> None:
        self.source: nn.Module | Callable[[], Any] = part
        plan = None if isinstance(part, nn.Module) else recipe_of(part)
        entry = None if plan is None else plan.entry
        self.name = type(part).__name__ if entry is None else entry.value.rpartition(":")[2]
        self.path = self.name if plan is None else plan.path
        self.owner = owner
        self.weights: dict[str, Tensor] = {}
        self.dir = dir
        self.read_only = False
        self._module: nn.Module | None = None
        self._store: Store | None = None
        self._probed = False

    def __getstate__(self) -> dict[str, Any]:
        """A copy, or one in another process, looks into the folder by itself."""
        return {**vars(self), "_store": None}

    @property
    def built(self) -> bool:
        """Whether the part was needed so far."""
        return self._module is not None

    def module(self) -> nn.Module:
        """The part itself, built now if it was not yet, frozen, on the device of the model.

        Raises:
            BuildError: a constructor refused its arguments.
            CacheError: a checkpoint's weights do not fit.
        """
        if self._module is None:
            module: nn.Module = self.source if isinstance(self.source, nn.Module) else self.source()
            if self.weights:
                try:
                    module.load_state_dict(self.weights)
                except RuntimeError as error:
                    raise CacheError(f"the weights in the checkpoint do not fit {self.name}: {error}") from error
            self._module = module.eval().requires_grad_(False)
        anchor = self.owner.anchor
        dtype = None if anchor.dtype == torch.float32 else anchor.dtype  # the part's own, unless all is in another
        return self._module.to(anchor.device, dtype)

    def take(self, weights: dict[str, Tensor]) -> None:
        """Weights from a checkpoint, for when it is built."""
        if not weights or (self.weights and weights_digest(weights) == weights_digest(self.weights)):
            return
        self.weights = weights
        self._store = None
        if isinstance(self.source, nn.Module):
            self.source.load_state_dict(weights)
        else:
            self._module = None

    @property
    def store(self) -> Store | None:
        """Where its outputs are kept; None for nowhere."""
        if self._store is None and self.dir is not None:
            about = identity(self.source, self.weights)
            self._store = Store(self.dir / folder_name(about), about, self.read_only)
        return self._store

    def flush(self) -> None:
        """Write what is still in memory."""
        if self._store is not None:
            self._store.flush()

    def outputs(self, entries: Sequence[Any], compute: Callable[..., Any]) -> tuple[Tensor, ...]:
        """The outputs for entries of b rows, from the store where it has them.

        Args:
            entries: tensors or lists; what the part is called with.
            compute: calls the part with entries.

        Raises:
            CacheError: the part is random, or its outputs cannot be told apart by sample.
            ValueError: entries without rows.
        """
        store = self.store
        if store is None:
            return _as_tuple(compute(*entries))
        count_samples(entries)
        anchor = self.owner.anchor
        autocast = torch.get_autocast_dtype(anchor.device.type) if _autocasts(anchor.device) else None
        keys = join([digests(entry) for entry in entries], f"{anchor.dtype} {autocast}")
        rows = store.get(keys)
        missing = sum(row is None for row in rows)
        if missing:
            self._announce(missing)
            # of the whole batch: kernels round otherwise in a smaller one, and training without a cache has this one
            fresh = self._compute(entries, compute, len(keys))
            store.add({key: new for key, row, new in zip(keys, rows, fresh, strict=True) if row is None})
            rows = [new if row is None else row for row, new in zip(rows, fresh, strict=True)]
        return self._gather([row for row in rows if row is not None], anchor.device)

    def _announce(self, missing: int) -> None:
        if not self.built:
            warnings.warn(
                f"{self.path}: {missing} entries of a batch are not in {self.dir}; {self.name} is built to compute "
                "them (`sgm cache CONFIG` does so before training)",
                CacheWarning,
                stacklevel=2,
            )

    def _compute(self, entries: Sequence[Any], compute: Callable[..., Any], n: int) -> list[Row]:
        """The row of each sample. No random state changes."""
        device = self.owner.anchor.device
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            check = getattr(self.module(), "check", None)
            if check is not None:
                check(*entries)
            outputs = _as_tuple(compute(*entries))
            if not self._probed:
                self._probe(entries, compute, outputs, n)
                self._probed = True
        return list(zip(*(self._by_sample(output, n) for output in outputs), strict=True))

    def _by_sample(self, output: Tensor, n: int) -> Tensor:
        """(n * k, ...) -> (n, k, ...) on the CPU."""
        if not output.ndim or output.shape[0] % n:
            raise CacheError(
                f"the outputs of {self.name} cannot be cached: {describe(output)} for {n} samples has no whole "
                "number of rows for each"
            )
        return output.detach().cpu().reshape(n, output.shape[0] // n, *output.shape[1:])

    def _probe(self, entries: Sequence[Any], compute: Callable[..., Any], outputs: tuple[Tensor, ...], n: int) -> None:
        """Refuse a part that is random, or looks at other samples of the batch: some samples, again and in another
        batch."""
        some = [pick(entry, [0, n - 1]) for entry in entries]
        once, again = _as_tuple(compute(*some)), _as_tuple(compute(*some))
        if not all(torch.equal(a, b) for a, b in zip(once, again, strict=True)):
            raise CacheError(
                f"the outputs of {self.name} cannot be cached: it is random, for the same entries gave two results. "
                "Leave the caching out, or use a variant that draws nothing (of an autoencoder, one that gives the "
                "mode: autoencoder_kl_mode, or the regularizer gaussian with `sample: false`)"
            )
        for few, all_of_them in zip(once, outputs, strict=True):
            few, expected = self._by_sample(few, 2), self._by_sample(all_of_them, n)[[0, n - 1]]
            if few.shape != expected.shape or not _close(few, expected):
                raise CacheError(
                    f"the outputs of {self.name} cannot be cached: what it gives for a sample depends on the others "
                    "in its batch (texts padded to the longest among them? Pad to a fixed length)"
                )

    def _gather(self, rows: list[Row], device: torch.device) -> tuple[Tensor, ...]:
        shapes = {tuple(output.shape for output in row) for row in rows}
        if len(shapes) > 1:
            raise CacheError(
                f"the outputs of {self.name} cannot be cached: they differ in shape between samples, "
                f"{' and '.join(str([tuple(shape) for shape in shapes_]) for shapes_ in sorted(shapes))}. "
                "Texts need to be padded to a fixed length"
            )
        gathered = []
        for several in zip(*rows, strict=True):
            into = several[0].new_empty((len(several), *several[0].shape), pin_memory=device.type == "cuda")
            stacked = torch.stack(several, out=into)
            gathered.append(stacked.flatten(0, 1).to(device, non_blocking=device.type == "cuda"))
        return tuple(gathered)


class Cached(nn.Module):
    """A module that stands for a part, in its place in the state dict. Where a checkpoint is restored it keeps nothing:
    a cache is for training."""

    keeps_outputs: ClassVar[bool] = True
    keys_optional: ClassVar[bool] = True
    stands_for_weights: ClassVar[tuple[str, ...]] = ("anchor",)

    anchor: Tensor

    def __init__(self, part: Any, dir: Path) -> None:
        super().__init__()
        self.register_buffer("anchor", torch.empty(0), persistent=False)
        self.part = CachedPart(part, self, dir if takes_weights() else None)

    @property
    def stands_for(self) -> str:
        """The name of the class of the part."""
        return self.part.name

    def moved(self, here: Any, there: Any) -> None:
        """Read an entry on the host, on behalf of its copy on a device."""
        carry_over(here, there)

    def flush_outputs(self) -> None:
        """Write what is still in memory."""
        self.part.flush()

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        for name, tensor in self.part.weights.items():
            destination[prefix + name] = tensor

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        self.part.take({key[len(prefix) :]: value for key, value in state_dict.items() if key.startswith(prefix)})


def cached_parts(model: nn.Module) -> dict[str, CachedPart]:
    """The cached parts of a model, by the names of their modules."""
    return {name: module.part for name, module in model.named_modules() if isinstance(module, Cached)}


def only_read(model: nn.Module) -> None:
    """Let the cached parts of a model take what is on the disk, and write nothing."""
    for part in cached_parts(model).values():
        part.read_only = True


def flush(model: nn.Module) -> None:
    """Write what the cached parts of a model still hold in memory."""
    for part in cached_parts(model).values():
        part.flush()


def _autocasts(device: torch.device) -> bool:
    return torch.is_autocast_enabled(device.type)


def _as_tuple(outputs: Any) -> tuple[Tensor, ...]:
    """What a part gave, as a tuple; anything but tensors is for its slot to refuse."""
    several = outputs if isinstance(outputs, (list, tuple)) else (outputs,)
    if not several or not all(isinstance(output, Tensor) for output in several):
        raise ValueError(f"its output is {describe(outputs)}; an embedder gives one tensor or a list of tensors")
    return tuple(several)


def pick(entry: Any, rows: list[int]) -> Any:
    """Some rows of a batch entry."""
    return entry[rows] if isinstance(entry, Tensor) else [entry[i] for i in rows]


def _close(a: Tensor, b: Tensor) -> bool:
    if not a.is_floating_point():
        return torch.equal(a, b)
    if not a.numel():
        return True
    tolerance = TOLERANCE.get(a.dtype, 1e-2)
    return bool((a.double() - b.double()).abs().max() <= tolerance * b.double().abs().max())
