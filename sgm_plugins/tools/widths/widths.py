"""The shapes of a model, reckoned from a checked config before anything is built: what the conditioner gives against
what the network takes. See `sgm_core.shapes` for how components say it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from sgm_core.config.api import Config
from sgm_core.config.plan import Call, Items, Plan, Value
from sgm_core.config.shapes import call_of, keywords, said_by, told
from sgm_core.config.tree import Origin, Problems, join
from sgm_core.registry import did_you_mean
from sgm_core.shapes import Shape, Takes, as_list, own_static
from sgm_core.slots import EmbedderSlot
from sgm_plugins.tools.widths.declared import way_out, wrong

ARGUMENTS = {"vector": "y", "crossattn": "context", "concat": "x"}
"""Where the parts of a conditioning go among the network's arguments; an extra keeps its name."""

NAMES = {argument: name for name, argument in ARGUMENTS.items()}


class Place(NamedTuple):
    """A part of a config."""

    origin: Origin
    path: str
    name: str

    def __str__(self) -> str:
        return f"{self.origin} {self.path} ({self.name})"


class Part(NamedTuple):
    """One output of a slot: its shape, the axis on which it is joined to others, and the one that is its width."""

    place: Place
    shape: Shape
    axis: int
    width_axis: int

    @property
    def width(self) -> int | None:
        return self.shape[self.width_axis] if self.shape else None


def check_shapes(config: Config, *, training: bool = True) -> list[str]:
    """Compare the widths that meet in the model of a config. Gives notes on what is not known before it runs.

    Args:
        config: it is checked first.
        training: whether the model is for the config's own `data`; otherwise batches may be of any shape.

    Raises:
        ConfigError: everything that does not fit, each with the lines of both sides and the right number.
    """
    plan, _ = config.checked
    model = plan.arguments.get("model")
    if not isinstance(model, Call) or not vars(model.target).get("joins_conditioning", False):
        return []
    comparison = Comparison(config, model, plan.arguments.get("data") if training else None, training)
    comparison.run()
    comparison.problems.raise_if_any()
    return comparison.notes


# --- the comparison ------------------------------------------------------------------------------------------------


class Comparison:
    """One model: its batches, the outputs of its slots, the arguments of its network."""

    def __init__(self, config: Config, model: Call, data: Plan | None, training: bool) -> None:
        self.config = config
        self.parts = model.arguments
        self.data = data
        self.training = training
        self.problems = Problems()
        self.notes: list[str] = []
        self.place = Place(model.origin, model.path, model.name)
        self.outputs: dict[str, list[Part]] = {}
        """By argument of the network: what is known to go there."""
        self.vague: set[str | None] = set()
        """Arguments to which something of unknown width goes; None stands for all of them."""

    def run(self) -> None:
        network = call_of(self.parts.get("network"))
        batch = self._said_by(self.data) if self.data is not None else None
        latent = self._latent(batch)
        self._read_slots(batch)
        for parts in self.outputs.values():
            self._join(parts)
        if network is None:
            return
        self._check_extras(network)
        takes = self._said_by(self.parts.get("network"), may_refuse=False)
        if takes is None:
            self.notes.append(f"{_place(network)} does not say which widths it takes")
            return
        if isinstance(takes.get("x"), Takes):
            self._check_input(takes["x"], latent)
        for argument in takes:
            if argument != "x" and isinstance(takes[argument], Takes):
                self._check_condition(argument, takes[argument])

    def _said_by(self, plan: Plan | None, *inputs: Any, may_refuse: bool = True) -> Any:
        """What a component says of its shapes; a wrong declaration is a problem, and says whose it is."""
        place, call = _place(plan), call_of(plan)
        said = self._ask(place, said_by(plan), *inputs, may_refuse=may_refuse)
        reason = wrong(call.entry.kind, said) if call is not None and call.entry is not None else ""
        if not reason or call is None or call.entry is None:
            return said
        out = way_out(call.entry, call.target)
        self.problems.add(place.origin, place.path, f"the `shapes` of '{place.name}' is wrong: {reason}{out}")
        return None

    def _ask(self, place: Place, say: Callable[..., Any], *inputs: Any, may_refuse: bool = True) -> Any:
        """What a component says. That it refuses its inputs is a problem of the config, all else is none of it."""
        try:
            return say(*inputs)
        except Exception as error:  # it is a plugin's; nobody should be kept from training by a mistake in it
            if isinstance(error, ValueError) and may_refuse:
                self.problems.add(place.origin, place.path, str(error))
            elif may_refuse:
                self.notes.append(f"{place}: its `shapes` failed, {type(error).__name__}: {error}")
            return None

    # --- what there is ---------------------------------------------------------------------------------------------

    def _latent(self, batch: Mapping[str, Shape | None] | None) -> Shape | None:
        """The shape of what the denoiser is given."""
        key = _argument_or(self.parts, "input_key", "image")
        image = None
        if batch is not None:
            if key not in batch:
                self._missing_entry(self.place, "input_key", key, batch)
            image = batch.get(key)
        first_stage = self.parts.get("first_stage")
        latent: Shape | None = self._said_by(first_stage, image)
        if latent is None and _argument_or(self.parts, "latent_shape", None):
            latent = tuple(told(self.parts["latent_shape"]))
        return latent

    def _read_slots(self, batch: Mapping[str, Shape | None] | None) -> None:
        """Each output of each slot, to the argument of the network that it goes to."""
        given = self.parts.get("conditioner")
        if given is None or given == Value(None):
            if not self.training:
                self.vague.add(None)  # whoever samples may bring a conditioning
            return
        conditioner = call_of(given)
        route = None if conditioner is None else own_static(conditioner.target, "route")
        if conditioner is None or route is None:
            self.vague.add(None)
            self.notes.append(f"{_place(given)} does not say where it puts what its embedders give")
            return
        route = partial(route, **keywords(route, conditioner))
        for plan in _slots(conditioner):
            slot = call_of(plan)
            if slot is None:
                self.vague.add(None)
            else:
                self._read_slot(slot, route, batch)

    def _read_slot(self, slot: Call, route: Callable[..., Any], batch: Mapping[str, Shape | None] | None) -> None:
        place, output = _place(slot), _argument_or(slot.arguments, "output", None)
        keys = _argument_or(slot.arguments, "input_keys", None) or [_argument_or(slot.arguments, "input_key", None)]
        entries = []
        for key in keys:
            if batch is not None and key not in batch and key != "global_step":
                self._missing_entry(place, "input_key" if "input_key" in slot.arguments else "input_keys", key, batch)
            entries.append(() if key == "global_step" else None if batch is None else batch.get(key))
        embedder = call_of(slot.arguments.get("embedder"))
        said = self._ask(place, said_by(slot), *entries)
        if embedder is not None and embedder.entry is not None and (reason := wrong("embedders", said)):
            out = way_out(embedder.entry, embedder.target)
            self.problems.add(place.origin, place.path, f"the `shapes` of '{place.name}' is wrong: {reason}{out}")
            said = None
        shapes = as_list(said)
        if shapes is None:
            self.vague.add(None if output is None else ARGUMENTS.get(output, output))
            self.notes.append(f"{place}: what it gives is not known before it runs")
            return
        for shape in shapes:
            routed = self._ask(place, route, shape, output)
            if routed is None:
                self.vague.add(None)
                continue
            argument = ARGUMENTS.get(routed[0], routed[0])
            part = Part(place, shape, routed[1], 0 if argument == "x" else len(shape) - 1)
            self.outputs.setdefault(argument, []).append(part)
            if part.width is None:
                self.vague.add(argument)
                self.notes.append(f"{place}: the width of its {routed[0]} output depends on the data")

    def _missing_entry(self, place: Place, parameter: str, key: str, batch: Mapping[str, Any]) -> None:
        self.problems.add(
            self._origin(place, parameter),
            join(place.path, parameter),
            f"the batches of this config's data have no '{key}'.{did_you_mean(key, batch)} "
            f"They have: {', '.join(sorted(batch))}",
        )

    def _join(self, parts: list[Part]) -> None:
        """Outputs that go to one argument agree in all but the axis on which they are joined."""
        first = parts[0]
        for part in parts[1:]:
            pairs = list(zip(first.shape, part.shape, strict=False))
            fits = len(first.shape) == len(part.shape) and all(
                i == part.axis or None in pair or pair[0] == pair[1] for i, pair in enumerate(pairs)
            )
            if not fits:
                self.problems.add(
                    part.place.origin,
                    part.place.path,
                    f"{part.place.name} gives {_spell(part.shape)}, which cannot be joined to {_spell(first.shape)} "
                    f"of {first.place}; only the width may differ (dimension {part.axis + 1}). Bring both to one "
                    "shape, or give one of the slots another `output`",
                )
                self.vague.add(None)

    # --- what does not fit -----------------------------------------------------------------------------------------

    def _total(self, argument: str) -> int | None:
        """The joined width of what goes to an argument, None if that is not known."""
        if self.vague & {argument, None}:
            return None
        parts = self.outputs.get(argument, [])
        if parts and parts[0].axis != parts[0].width_axis:  # joined along the tokens
            return parts[0].width
        return sum(part.width or 0 for part in parts)

    def _check_input(self, takes: Takes, latent: Shape | None) -> None:
        concat = self._total("x")
        if latent is None or not latent or latent[0] is None:
            self.notes.append(f"{_place(self.parts.get('first_stage'))}: the channels of its latents are not known")
            return
        if concat is None or takes.width in (None, latent[0] + concat):
            return
        total = latent[0] + concat
        lines = [f"{_place(self.parts.get('first_stage'))}: {latent[0]}", *self._lines("x")]
        self._mismatch(
            takes,
            f"the network takes an input of {takes.width} channels, but "
            + (f"latents of {latent[0]} and concat of {concat} make {total}" if concat else f"the latents have {total}")
            + f": {self._remedy(takes, total)}change {'one of these' if concat else 'the first stage'}",
            lines,
        )

    def _check_condition(self, argument: str, takes: Takes) -> None:
        name, total, given = NAMES.get(argument, argument), self._total(argument), self.outputs.get(argument)
        if total is None or takes.width == (total if given else None):
            return
        if not given:
            self._mismatch(
                takes,
                f"the network takes a {name} of width {takes.width}, but no embedder gives any: add one of this width"
                + (f", or leave out {' and '.join([takes.key, *takes.needs])}" if takes.key else ""),
                [],
            )
        elif takes.width is None:
            self._mismatch(
                takes,
                f"the network takes no {name}, but the embedders give one of width {total}: "
                f"{self._remedy(takes, total)}leave them out, or give them another `output`",
                self._lines(argument),
            )
        else:
            self._mismatch(
                takes,
                f"the network takes a {name} of width {takes.width}, but the embedders give {total}: "
                f"{self._remedy(takes, total)}change the embedders",
                self._lines(argument),
            )

    def _check_extras(self, network: Call) -> None:
        """An output that is an argument which the network's call does not have."""
        forward = getattr(network.target, "forward", None)
        if forward is None:
            return
        parameters = inspect.signature(forward).parameters
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return
        for argument, parts in self.outputs.items():
            if argument not in NAMES and argument not in parameters:
                known = [name for name in parameters if name not in ("self", "x", "timesteps", *NAMES)]
                for part in parts:
                    self.problems.add(
                        self._origin(part.place, "output"),
                        join(part.place.path, "output"),
                        f"the network ({_place(network)}) has no argument '{argument}'."
                        f"{did_you_mean(argument, [*known, *ARGUMENTS])} Outputs go to vector, crossattn, concat"
                        + (f", {', '.join(known)}" if known else ""),
                    )

    def _remedy(self, takes: Takes, width: int) -> str:
        """`set model.network.num_classes to sequential and model.network.adm_in_channels to 128, or `."""
        if not takes.key or width == 0:
            return ""
        path = _place(takes.owner).path
        settings = [(key, value) for key, value in takes.needs.items() if self._said(takes, key) != value]
        text = " and ".join(f"{join(path, key)} to {value}" for key, value in [*settings, (takes.key, width)])
        return f"set {text}, or "

    def _said(self, takes: Takes, key: str) -> Any:
        return _argument_or(takes.owner.arguments, key, None)

    def _mismatch(self, takes: Takes, message: str, lines: Sequence[str]) -> None:
        """At the line of the key that decides, or of the network where the config does not have it."""
        place = _place(takes.owner)
        keys = [key for key in (takes.key, *takes.needs) if key in takes.owner.arguments]
        origin = self._origin(place, keys[0]) if keys else place.origin
        path = join(place.path, takes.key) if takes.key else place.path
        text = "".join(f"\n  {line}" for line in lines)
        self.problems.add(origin, path, message + text)

    def _lines(self, argument: str) -> list[str]:
        return [f"{part.place}: {part.width}" for part in self.outputs.get(argument, ())]

    def _origin(self, place: Place, key: str) -> Origin:
        """Where a key's value stands."""
        try:
            return self.config.node(join(place.path, key)).origin
        except KeyError:
            return place.origin


def _slots(conditioner: Call) -> Iterator[Plan]:
    """The plans of a conditioner's slots, in order, each once."""
    for argument in conditioner.arguments.values():
        for plan in argument.items if isinstance(argument, Items) else [argument]:
            call = call_of(plan)
            if (call is not None and call.target is EmbedderSlot) or (
                isinstance(plan, Value) and isinstance(plan.value, EmbedderSlot)
            ):
                yield plan


def _argument_or(arguments: Mapping[str, Plan], name: str, default: Any) -> Any:
    return told(arguments[name]) if name in arguments else default


def _place(plan: Plan | None) -> Place:
    """Where a part stands and what it is called; of a slot its embedder's name."""
    call = call_of(plan)
    if call is None:
        value = plan.value if isinstance(plan, Value) else None
        return Place(Origin("config"), "", type(value).__name__)
    embedder = call_of(call.arguments.get("embedder")) if call.target is EmbedderSlot else None
    return Place(call.origin, call.path, (embedder or call).name)


def _spell(shape: Shape) -> str:
    """`(b, 77, 768)`."""
    return f"(b, {', '.join('?' if length is None else str(length) for length in shape)})"
