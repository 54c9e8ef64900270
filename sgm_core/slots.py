"""What a config writes for each embedder of a conditioner, and what that means."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from sgm_core.conditioning import Conditioning
from sgm_core.config.check import CACHED
from sgm_core.config.schema import FixedWeights
from sgm_core.precision import as_ever, computing
from sgm_core.randomness import bernoulli, move
from sgm_core.roles import Conditioner, Embedder
from sgm_core.shapes import Shape

_NETWORK_ARGUMENTS = {
    "x": "that is the network's input, use 'concat' to join it",
    "timesteps": "that is the network's noise level",
    "context": "write 'crossattn'",
    "y": "write 'vector'",
}


@dataclass(frozen=True, eq=False)  # nothing about a slot changes after it is made; each is a place of its own
class EmbedderSlot:
    """One embedder of a conditioner: what it reads, whether it trains, how it drops, where its outputs go.

    The embedder is a plain `nn.Module` that knows none of this. A conditioner owns the modules and applies the
    slot to them with `settle`, `embed` and, for dropping, `draw`, `substitute` and `blank`.

    A dropped sample is what classifier-free guidance moves away from (Ho and Salimans 2022, arXiv:2207.12598):
    its embedding is that of `ucg_value` where there is one, else what the embedder's method `null_outputs` gives, a
    tensor without the batch for each output, else zeros.

    Attributes:
        embedder: turns the entries into one tensor or several.
        input_key: the batch entry that the embedder is called with.
        input_keys: several entries instead, the embedder's arguments in order.
        trainable: false means frozen: eval for good, no gradient to its parameters, which still move and are
            saved with the model. True leaves each parameter's `requires_grad` as the embedder has set it. An adapter
            of the model freezes what is trainable, and what it adapts is no longer frozen as a whole.
        ucg_rate: the probability that a sample is dropped in training; all outputs of the slot drop together.
        ucg_value: what stands for a dropped entry: a number or nested list that broadcasts to a row of a tensor,
            a string for a list of strings. With `input_keys`, a list with one value per key (None leaves that entry).
        drop_group: slots of one group drop the same samples, all of them at the one rate that they must share. Without
            groups k slots of rate p leave a sample with nothing, as guidance needs it, at the rate p^k.
        cache: whether the embedder's outputs are kept on disk, by the content of the entries. In a config it is short
            for `{use: cached, embedder: ..., dir: ${cache.dir}}`; in Python the embedder is that component already.
            What is dropped, and when, stays the same.
        output: where the outputs go. None leaves it to their rank; a name that is not one of the three is a
            keyword argument of the network.

    Raises:
        ValueError: arguments that contradict each other, or the embedder.
    """

    embedder: Annotated[Embedder, FixedWeights(cached="cache", unless="trainable")]
    input_key: str | None = None
    input_keys: list[str] | None = None
    trainable: bool = False
    ucg_rate: Annotated[float, Ge(0), Le(1)] = 0.0
    ucg_value: Any = None
    drop_group: str | None = None
    output: Literal["vector", "crossattn", "concat"] | str | None = None
    cache: bool = False

    def __post_init__(self) -> None:
        name = self.name
        if not isinstance(self.embedder, nn.Module):
            raise ValueError(f"the embedder is {describe(self.embedder)}; it must be an nn.Module")
        if (self.input_key is None) == (not self.input_keys):
            raise ValueError(
                f"{name}: input_key is {self.input_key!r}, input_keys {self.input_keys!r}; give exactly one"
            )
        if not 0 <= self.ucg_rate <= 1:
            raise ValueError(f"ucg_rate of {name} is {self.ucg_rate}; it is a probability, from 0 to 1")
        if self.cache:
            refuse_uncached(self.embedder, "embedders")
        if self.trainable and self.cache:
            raise ValueError(f"{name} trains, so its outputs change: write `trainable: false` or `cache: false`")
        if self.trainable and not any(parameter.requires_grad for parameter in self.embedder.parameters()):
            reason = "it freezes all of them itself" if any(True for _ in self.embedder.parameters()) else "it has none"
            raise ValueError(
                f"{name} is trainable, but no parameter of it requires a gradient ({reason}), so it would never "
                "train; write `trainable: false`, or let the embedder leave parameters to train"
            )
        if self.input_keys and self.ucg_value is not None:
            values = self.ucg_value
            if not isinstance(values, (list, tuple)) or len(values) != len(self.input_keys):
                raise ValueError(f"ucg_value of {name} is {values!r}; give one value for each of {self.input_keys}")
        if self.output is not None and not self.output.isidentifier():
            raise ValueError(f"output of {name} is {self.output!r}; it must be the name of a keyword argument")
        if self.output in _NETWORK_ARGUMENTS:
            raise ValueError(f"output of {name} is {self.output!r}; {_NETWORK_ARGUMENTS[self.output]}")

    @staticmethod
    def shapes(
        *entries: Shape | None, embedder: Callable[..., Shape | list[Shape] | None]
    ) -> Shape | list[Shape] | None:
        """What the slot gives, see `sgm_core.shapes`."""
        return embedder(*entries)

    @property
    def module(self) -> nn.Module:
        """The embedder, as the module that it is."""
        return cast(nn.Module, self.embedder)

    @property
    def name(self) -> str:
        """The name of the embedder's class, or of the one that it stands for: for messages."""
        return str(getattr(self.embedder, "stands_for", type(self.embedder).__name__))

    @property
    def keys(self) -> tuple[str, ...]:
        """The batch entries that it reads, in the order of the embedder's arguments."""
        return tuple(self.input_keys) if self.input_keys else (cast(str, self.input_key),)

    @property
    def drops(self) -> bool:
        """Whether the slot has an empty state that the network knows, or is told to have."""
        return self.ucg_rate > 0 or self.ucg_value is not None

    def settle(self, module: nn.Module) -> None:
        """Put the embedder in the state that the slot asks for.

        Called from the conditioner's `train`, which every `train()` of a parent passes through: so frozen outlives
        Lightning's switches between training and evaluation, and no method of the embedder is replaced.
        """
        if not self.trains(module):
            module.eval().requires_grad_(False)

    def trains(self, module: nn.Module) -> bool:
        """Whether the embedder trains, or an adapter in it does."""
        return self.trainable or getattr(module, "adapted", False)

    def embed(self, module: nn.Module, entries: Sequence[Any]) -> tuple[Tensor, ...]:
        """The embedder's outputs; a trainable one builds a graph where the caller's grad mode lets it.

        Raises:
            ValueError: it gave something else than one tensor or several, or it cannot take what is no tensor.
        """
        try:
            with torch.set_grad_enabled(self.trains(module) and torch.is_grad_enabled()), computing(module):
                outputs = module(*entries)
        except (TypeError, AttributeError) as error:
            if all(isinstance(entry, Tensor) for entry in entries):
                raise  # no entry is to blame
            given = " and ".join(map(describe, entries))
            raise ValueError(f"it cannot embed {given} ({type(error).__name__}: {error})") from error
        if isinstance(outputs, Tensor):
            return (as_ever(module, outputs),)
        if isinstance(outputs, (list, tuple)) and outputs and all(isinstance(part, Tensor) for part in outputs):
            return tuple(as_ever(module, part) for part in outputs)
        raise ValueError(f"its output is {describe(outputs)}; an embedder gives one tensor or a list of tensors")

    def check(self, module: nn.Module, entries: Sequence[Any]) -> None:
        """Raise ValueError for entries that the slot could not drop, or that the embedder's own `check` refuses."""
        check = getattr(module, "check", None)
        if check is not None:
            check(*entries)
        if self.drops:
            count_samples(entries)
        if self.ucg_value is not None:
            row = self.substitute([entry[:1] for entry in entries])
            if check is not None:
                try:
                    check(*row)
                except ValueError as error:
                    raise ValueError(f"its ucg_value {self.ucg_value!r} cannot be embedded: {error}") from error

    def draw(self, entries: Sequence[Any], generator: torch.Generator | None = None) -> Tensor:
        """Which samples keep their condition, (b,) bool: one Bernoulli(1 - ucg_rate) draw for the whole slot.

        Drawn on the generator's device, without one where the entries are (lists are on the CPU), and moved there. With
        the entries of all slots of a `drop_group`, the draw is for the group.
        """
        rows, device = count_samples(entries)
        return bernoulli(1.0 - self.ucg_rate, (rows,), generator, device=device)

    def substitute(self, entries: Sequence[Any], keep: Tensor | None = None) -> list[Any]:
        """Copies of the entries, with `ucg_value` for the samples that are not kept; without `keep`, for all.

        Raises:
            ValueError: the value cannot stand in for a row of the entry.
        """
        if keep is None:
            rows, device = count_samples(entries)
            keep = torch.zeros(rows, dtype=torch.bool, device=device)
        replaced: list[Any] = []
        several = self.input_keys and self.ucg_value is not None
        for entry, value in zip(entries, self.ucg_value if several else [self.ucg_value] * len(entries), strict=True):
            if value is None:  # leaves the entry as it is
                replaced.append(entry)
                continue
            filler = _filler(entry, value)
            if isinstance(entry, Tensor):
                kept = move(keep, entry.device).view(-1, *(1 for _ in entry.shape[1:]))
                # a filler of rank 0 stays on the CPU: torch.where takes it from there
                replaced.append(torch.where(kept, entry, move(filler, entry.device) if filler.ndim else filler))
            else:
                rows_kept = zip(entry, keep.tolist(), strict=True)
                replaced.append([row if is_kept else filler for row, is_kept in rows_kept])
        return replaced

    @staticmethod
    def blank(output: Tensor, keep: Tensor, null: Tensor | None = None) -> Tensor:
        """An output (b * k, ...) with zeros for the samples that are not kept (b,): all k rows of a sample go together.

        Args:
            null: what stands there in place of zeros, without the batch.

        Raises:
            ValueError: the output has no whole number of rows per sample; null is of another shape.
        """
        samples, rows = keep.shape[0], output.shape[0]
        if rows % samples:
            raise ValueError(f"its output is {describe(output)} for {samples} samples, so none of them can be dropped")
        dropped = ~move(keep, output.device)[:, None].expand(samples, rows // samples).reshape(-1)
        dropped = dropped.view(-1, *(1 for _ in output.shape[1:]))
        return output.masked_fill(dropped, 0) if null is None else torch.where(dropped, like(output, null), output)


class NoConditioner(Conditioner):
    """The conditioner of an unconditional model."""

    def __init__(self) -> None:
        super().__init__()
        self.embedders = nn.ModuleList()

    @property
    def input_keys(self) -> tuple[str, ...]:
        return ()

    def forward(self, batch: Mapping[str, Any], **how: Any) -> Conditioning:
        return Conditioning()

    def unconditional(self, batch: Mapping[str, Any]) -> Conditioning:
        return Conditioning()

    def check(self, batch: Mapping[str, Any]) -> None:
        return None


def refuse_uncached(part: Any, kind: str) -> None:
    """Raise ValueError where a flag says that a part is cached, and Python code gave one that keeps nothing."""
    if not getattr(part, "keeps_outputs", False):
        raise ValueError(
            f"{describe(part)} keeps no outputs: give sgm.build({kind!r}, {{'use': {CACHED!r}, ...}}), which does"
        )


def null_outputs(module: nn.Module, n: int) -> Sequence[Tensor | None]:
    """What an embedder gives for a dropped sample in each of its n outputs, or ValueError; None is zeros."""
    given = getattr(module, "null_outputs", None)
    if given is None:
        return [None] * n
    nulls: Sequence[Tensor] = given()
    if len(nulls) != n:
        raise ValueError(f"it has {len(nulls)} null embeddings for {n} outputs: give one for each")
    return nulls


def like(output: Tensor, null: Tensor) -> Tensor:
    """A null embedding for every row of an output. ValueError if it does not fit a row."""
    try:
        return null.to(output.dtype).expand_as(output)
    except RuntimeError as error:
        raise ValueError(
            f"its null embedding is {describe(null)}, which does not fit a row of its output, {describe(output)}"
        ) from error


def count_samples(entries: Sequence[Any]) -> tuple[int, torch.device]:
    """How many samples the entries hold, and the device to draw on: the CPU if any of them is a list.

    Raises:
        ValueError: an entry without a row for each sample, or entries of several sizes.
    """
    for entry in entries:
        if not (isinstance(entry, (list, tuple)) or (isinstance(entry, Tensor) and entry.ndim > 0)) or not len(entry):
            raise ValueError(
                f"it reads {describe(entry)}; to drop samples, an entry must be a tensor or a list with a row for each"
            )
    sizes = {len(entry) for entry in entries}
    if len(sizes) > 1:
        raise ValueError(f"the entries hold {' and '.join(map(str, sorted(sizes)))} samples; they must hold the same")
    on_cpu = any(not isinstance(entry, Tensor) for entry in entries)
    return sizes.pop(), torch.device("cpu") if on_cpu else entries[0].device


def _filler(entry: Any, value: Any) -> Any:
    """`value` in the form that replaces a row of the entry: a tensor of its dtype for a tensor, else itself."""
    if not isinstance(entry, Tensor):
        if isinstance(value, str) != isinstance(entry[0], str):
            raise ValueError(f"ucg_value {value!r} cannot replace an item of {describe(entry)}: give one of its type")
        return value
    try:
        filler = torch.as_tensor(value)
        filler.expand(entry.shape[1:])
        fits = torch.can_cast(filler.dtype, entry.dtype)
    except (TypeError, ValueError, RuntimeError):  # no number; a ragged list; a shape that does not broadcast
        fits = False
    if not fits:
        raise ValueError(
            f"ucg_value {value!r} cannot replace a row of {describe(entry)}: its shape or type does not fit"
        )
    return torch.as_tensor(value, dtype=entry.dtype)


def describe(value: Any) -> str:
    """What came, for a message: `a float32 tensor (2, 3)`, `a list of 4 str`, `a BatchEncoding`."""
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor {tuple(value.shape)}"
    name = type(value).__name__
    if isinstance(value, (list, tuple)):
        kinds = " and ".join(sorted({type(item).__name__ for item in value}))
        return f"a {name} of {len(value)} {kinds}" if value else f"an empty {name}"
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
