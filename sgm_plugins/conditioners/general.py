"""The conditioner that combines any embedders, each routed by the rank of what it gives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sgm_core.conditioning import Conditioning
from sgm_core.registry import did_you_mean
from sgm_core.roles import Conditioner
from sgm_core.shapes import Shape
from sgm_core.slots import EmbedderSlot, count_samples, describe, like, null_outputs

if TYPE_CHECKING:
    from typing import Self

BY_RANK = {2: "vector", 3: "crossattn", 4: "concat", 5: "concat"}
"""Where an output goes if its slot does not say: (b, d), (b, tokens, d), (b, c, h, w), (b, c, t, h, w)."""

_JOINED_ON = {"vector": 1, "crossattn": 2}
"""The axis on which outputs of one name are joined; 1, the channels, for `concat` and for every extra."""

_RANKS = {"vector": "rank 2, (b, d)", "crossattn": "rank 3, (b, tokens, d)", "concat": "rank 2 or more, (b, c, *grid)"}


class GeneralConditioner(Conditioner):
    """Runs the embedders in order and joins their outputs into one conditioning.

    An output goes where its slot says, or by rank: 2 to `vector`, joined on dimension 1; 3 to `crossattn`, joined on
    dimension 2 (but see `join_tokens`); 4 and 5 to `concat`, joined on dimension 1. A slot's output of another name
    (`cond_view`, `cond_motion`) becomes an extra, joined on dimension 1.

    Every message about a slot names it as a config does, `conditioner.embedders[1] (ClassEmbedder)`.

    Args:
        embedders: the slots. None at all makes an unconditional model.
        join_tokens: the tokens of `crossattn` follow each other, on dimension 1, in place of being side by side on
            dimension 2: for embedders of one width (`projected` gives them one) and any number of tokens.

    Raises:
        ValueError: slots of one `drop_group` with different drop rates.
    """

    def __init__(self, embedders: list[EmbedderSlot], join_tokens: bool = False) -> None:
        super().__init__()
        self.join_tokens = join_tokens
        self.slots: tuple[EmbedderSlot, ...] = tuple(embedders)
        self.embedders = nn.ModuleList(slot.module for slot in embedders)
        self._together = self._drop_groups()
        self.train(self.training)

    @staticmethod
    def route(shape: Shape, output: str | None, *, join_tokens: bool) -> tuple[str, int]:
        """Where an output goes, from its shape for one sample and what its slot says, and the axis of the shape on
        which it is joined to others: what `forward` does, before anything is built.

        Raises:
            ValueError: nothing routes its rank, or the slot sends it where its rank does not fit.
        """
        said = f"of shape (b, {', '.join('?' if length is None else str(length) for length in shape)})"
        name = _destination(1 + len(shape), said, output)
        return name, _axis(name, join_tokens) - 1

    def train(self, mode: bool = True) -> Self:
        """Switch the trainable embedders. A parent's `train()` comes through here too: frozen ones stay in eval."""
        super().train(mode)
        for slot, embedder in zip(self.slots, self.embedders, strict=True):
            slot.settle(embedder)
        return self

    @property
    def input_keys(self) -> tuple[str, ...]:
        """The batch entries that the slots read, in order, each once."""
        return tuple(dict.fromkeys(key for slot in self.slots for key in slot.keys))

    def forward(
        self,
        batch: Mapping[str, Any],
        *,
        force_zero: Iterable[str] = (),
        drop: bool = True,
        generator: torch.Generator | None = None,
    ) -> Conditioning:
        """The conditioning of a batch, which is left as it is.

        Args:
            batch: b entries per key: tensors of b rows, lists of b strings, what the embedders take.
            force_zero: slots that read one of these entries give zeros.
            drop: whether samples are dropped with each slot's rate. One draw per slot, in the order of the slots,
                for all of its outputs; one per `drop_group`, in the place of its first slot. Without a generator the
                draws come from torch's global state of the device, on every rank its own.
            generator: source of the draws.

        Raises:
            ValueError: a missing entry; an unknown key in `force_zero`; entries that cannot be dropped; outputs
                that cannot be routed or joined; whatever ValueError an embedder raises, with the slot's name.
        """
        zeroed = self._slots_reading(force_zero)
        read = self._read(batch)
        draws: dict[int, Tensor] = {}  # by the first slot of those that drop together
        outputs: list[tuple[int, Tensor]] = []
        for i, slot in enumerate(self.slots):
            with self._naming(i):
                entries, keep = read[i], None
                if drop and slot.ucg_rate > 0:
                    first = self._together[i][0]
                    if first == i:
                        draws[i] = slot.draw(self._read_together(i, read), generator)
                    keep = draws[first]
                if keep is not None and slot.ucg_value is not None:
                    entries, keep = slot.substitute(entries, keep), None
                embedded = slot.embed(self.embedders[i], entries)
                for output, null in zip(embedded, null_outputs(self.embedders[i], len(embedded)), strict=True):
                    if i in zeroed:
                        output = torch.zeros_like(output)
                    elif keep is not None:
                        output = slot.blank(output, keep, null)
                    outputs.append((i, output))
        cond = self._route(outputs)
        whole = not drop and not zeroed
        return replace(cond, source={key: batch[key] for key in self.input_keys}) if whole else cond

    def unconditional(self, batch: Mapping[str, Any]) -> Conditioning:
        """What guidance moves away from: each slot in the state in which its drops leave it.

        A slot with a `ucg_value` embeds that value, one with a drop rate alone gives its embedder's null embedding, or
        zeros. A slot that is never
        dropped keeps its embedding of the batch, since the network has never seen it empty: the size that both halves
        of guided SDXL share, say. If no slot has an empty state, all of them give zeros.

        Raises:
            ValueError: as `forward`.
        """
        none_drops = not any(slot.drops for slot in self.slots)
        read = self._read(batch)
        outputs: list[tuple[int, Tensor]] = []
        for i, slot in enumerate(self.slots):
            with self._naming(i):
                entries = read[i]
                if slot.ucg_value is not None:
                    entries = slot.substitute(entries)
                zero = none_drops or (slot.ucg_rate > 0 and slot.ucg_value is None)
                embedded = slot.embed(self.embedders[i], entries)
                for output, null in zip(embedded, null_outputs(self.embedders[i], len(embedded)), strict=True):
                    if zero:
                        output = torch.zeros_like(output) if null is None else like(output, null)
                    outputs.append((i, output))
        return self._route(outputs)

    def check(self, batch: Mapping[str, Any]) -> None:
        """Raise ValueError for a batch without a slot's entry, or with one that it cannot embed or drop."""
        read = self._read(batch)
        for i, slot in enumerate(self.slots):
            with self._naming(i):
                slot.check(self.embedders[i], read[i])
                if slot.ucg_rate > 0:
                    count_samples(self._read_together(i, read))

    def _name(self, i: int) -> str:
        return f"conditioner.embedders[{i}] ({self.slots[i].name})"

    @contextmanager
    def _naming(self, i: int) -> Iterator[None]:
        """Begin the message of a ValueError with the slot that it is about."""
        try:
            yield
        except ValueError as error:
            raise ValueError(f"{self._name(i)}: {error}") from error

    def _read(self, batch: Mapping[str, Any]) -> list[list[Any]]:
        """The entries of each slot, in the order of its keys."""
        for i, slot in enumerate(self.slots):
            for key in slot.keys:
                if key not in batch:
                    keys = sorted(str(known) for known in batch)
                    raise ValueError(
                        f"{self._name(i)}: it reads '{key}', which the batch does not have.{did_you_mean(key, keys)} "
                        f"The batch has: {', '.join(keys) or 'nothing'}"
                    )
        return [[batch[key] for key in slot.keys] for slot in self.slots]

    def _read_together(self, i: int, read: list[list[Any]]) -> list[Any]:
        """The entries of all slots that drop with slot i."""
        return [entry for j in self._together[i] for entry in read[j]]

    def _drop_groups(self) -> list[list[int]]:
        """For each slot, those that drop with it, itself included."""
        groups: dict[str | int, list[int]] = {}
        names = [i if slot.drop_group is None else slot.drop_group for i, slot in enumerate(self.slots)]
        for i, name in enumerate(names):
            group = groups.setdefault(name, [])
            group.append(i)
            first, rate = group[0], self.slots[i].ucg_rate
            if rate != self.slots[first].ucg_rate:
                raise ValueError(
                    f"{self._name(i)} has ucg_rate {rate} and {self._name(first)} has {self.slots[first].ucg_rate}; "
                    f"both are of drop_group {name!r}, and what drops together has one rate: give both the same"
                )
        return [groups[name] for name in names]

    def _slots_reading(self, keys: Iterable[str]) -> set[int]:
        keys = set(keys)
        known = self.input_keys
        for key in sorted(keys.difference(known)):
            raise ValueError(
                f"force_zero names '{key}', which no embedder of the conditioner reads.{did_you_mean(key, known)} "
                f"They read: {', '.join(known) or 'nothing'}"
            )
        return {i for i, slot in enumerate(self.slots) if keys.intersection(slot.keys)}

    def _route(self, outputs: list[tuple[int, Tensor]]) -> Conditioning:
        """Each output to its name, those of one name joined in order. `outputs` are (slot, tensor)."""
        routed: dict[str, list[tuple[int, Tensor]]] = {}
        for i, output in outputs:
            with self._naming(i):
                routed.setdefault(_destination(output.ndim, describe(output), self.slots[i].output), []).append(
                    (i, output)
                )
        joined = {name: self._join(name, parts) for name, parts in routed.items()}
        return Conditioning(
            vector=joined.pop("vector", None),
            crossattn=joined.pop("crossattn", None),
            concat=joined.pop("concat", None),
            extras=joined,
        )

    def _join(self, name: str, parts: list[tuple[int, Tensor]]) -> Tensor:
        first, tensor = parts[0]
        if len(parts) == 1:
            return tensor
        axis = _axis(name, self.join_tokens)
        for i, part in parts[1:]:
            if tensor.ndim <= axis or _without(axis, part.shape) != _without(axis, tensor.shape):
                raise ValueError(
                    f"{self._name(i)}: its {name} output {tuple(part.shape)} cannot be joined to "
                    f"{tuple(tensor.shape)} of {self._name(first)}; only dimension {axis} may differ"
                )
        return torch.cat([part for _, part in parts], dim=axis)


def _axis(name: str, join_tokens: bool) -> int:
    """On which dimension outputs of a name are joined."""
    return 1 if name == "crossattn" and join_tokens else _JOINED_ON.get(name, 1)


def _destination(rank: int, said: str, name: str | None) -> str:
    """The name under which the network gets an output.

    Raises:
        ValueError: nothing routes its rank, or the slot sends it where its rank does not fit.
    """
    if name is None:
        if rank not in BY_RANK:
            ranks = ", ".join(f"{known} to {to}" for known, to in BY_RANK.items())
            raise ValueError(
                f"its output is {said}, and rank {rank} goes nowhere by itself ({ranks}); give the slot an `output`"
            )
        return BY_RANK[rank]
    fits = {"vector": rank == 2, "crossattn": rank == 3, "concat": rank >= 2}.get(name, rank >= 1)
    if not fits:
        needs = _RANKS.get(name, "a row for each sample")
        raise ValueError(f"its output is {said}, which cannot be {name}: that needs {needs}")
    return name


def _without(axis: int, shape: torch.Size) -> tuple[int, ...]:
    return (*shape[:axis], *shape[axis + 1 :])
