"""`sgm convert config`: old files in, the text of a config out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgm_core.config.tree import MISSING, Node, Origin, Problem, plain
from sgm_plugins.tools.convert.checked import settle
from sgm_plugins.tools.convert.data import convert_data
from sgm_plugins.tools.convert.document import Block, Item, write
from sgm_plugins.tools.convert.legacy import read_legacy
from sgm_plugins.tools.convert.nodes import given, place, target_of
from sgm_plugins.tools.convert.packages import Packages
from sgm_plugins.tools.convert.rewriter import Rewriter, Scope
from sgm_plugins.tools.convert.tables import PARTS, all_rules
from sgm_plugins.tools.convert.training import convert_lightning

BESIDE_THE_MODEL = ("base_learning_rate", "scale_lr")
INPUT_KEYS = ("input_key", "input_keys", "cond_stage_key", "first_stage_key", "key")
LARGEST = 10**9
SEED = 23
DEFAULT_OPTIMIZERS = {"diffusion": "adamw", "autoencoder": "adam"}
"""Those of the ancestor's engines."""


@dataclass(frozen=True)
class Converted:
    """A config of ours.

    Attributes:
        text: the file, with `???` at each gap.
        gaps: what has no counterpart, with file and line.
    """

    text: str
    gaps: list[Problem]


def convert_config(paths: Sequence[Path], copies: Iterable[str] = ()) -> Converted:
    """Our config for old ones, which are merged from left to right. Nothing is built or imported.

    Args:
        copies: renamed copies of the ancestors' packages, `vwm=sgm`.

    Raises:
        ConfigError: a file that cannot be read, or is no config of the kind at all.
        SgmError: a copy is not of the form.
    """
    packages = Packages(copies)
    tree, comments, problems, references = read_legacy(paths)
    unread = list(problems.found)
    origin = Origin(str(paths[0]), 1, 1)
    rewriter = Rewriter(all_rules(), comments, problems, packages, PARTS, origin=origin)
    sections: dict[str, Node] = given(tree)
    if "model" not in sections:
        problems.add(origin, "", "there is no 'model:': is this a config of generative-models or latent diffusion?")
        problems.raise_if_any()

    top = Scope(rewriter, "", tree)
    top.block.origin = origin
    for problem in unread:
        top.say(f"{MISSING} {problem.path} ({place(problem.origin)}: {problem.message})")
    for key, node in sections.items():
        if key in references and key not in ("model", "data", "lightning"):
            top.drop(key, node, "each reference to it has its value")
        elif key not in ("model", "data", "lightning"):
            top.problem(key, node, "a config of generative-models has model, data and lightning")
    if _is_first_release(sections["model"]):
        packages.copies.setdefault("ldm", "sgm")
    top.put("seed", SEED, note="main.py's default")
    data = _data(rewriter, sections)
    top.put("model", _model(rewriter, sections["model"], sections), sections["model"])
    if data is not None:
        top.put("data", data, sections["data"])
    if "lightning" in sections:
        top.take(sections["lightning"])
        trainer, checkpoint = convert_lightning(rewriter, sections["lightning"])
        for key, block in (("trainer", trainer), ("checkpoint", checkpoint)):
            if block.items:
                top.put(key, block)
            else:
                top.waiting += block.below
    top.close()
    settle(top.block, rewriter)
    names = " ".join(path.name for path in paths)
    head = [f"Converted from {names} by `sgm convert config`, with notes on what was changed or left out."]
    if problems.found:
        head.append(
            f"Gaps: {len(problems.found)}. {MISSING} stands for a value to give, or for what has no place here."
        )
    left = comments.rest()
    if left:
        top.block.below += ["", "Comments of the old file on what is not here any more:", *left]
    first = next(iter(top.block.items.values()))
    first.above = [*head, *first.above]
    return Converted(write(top.block), sorted(problems.found, key=lambda problem: problem.origin))


def _is_first_release(model: Node) -> bool:
    """In its first weeks the package of generative-models was called as that of latent diffusion."""
    return target_of(model) in ("ldm.models.diffusion.DiffusionEngine", "ldm.models.autoencoder.AutoencodingEngine")


def _data(rewriter: Rewriter, sections: dict[str, Node]) -> Block | None:
    if "data" not in sections:
        return None
    block = convert_data(rewriter, sections["data"], set(_input_keys(sections["model"])))
    if block.items["use"].value != MISSING:
        rewriter.image_key = "image"
    return block


def _input_keys(node: Node) -> Iterator[str]:
    """The batch entries that anything in a tree reads."""
    if isinstance(node.value, dict):
        for key, child in node.value.items():
            if key in INPUT_KEYS:
                keys = plain(child)
                yield from [keys] if isinstance(keys, str) else [str(k) for k in keys] if isinstance(keys, list) else []
            yield from _input_keys(child)
    elif isinstance(node.value, list):
        for child in node.value:
            yield from _input_keys(child)


# --- the model -----------------------------------------------------------------------------------------------------


def _model(rewriter: Rewriter, node: Node, sections: dict[str, Node]) -> Block:
    block = rewriter.component(node, "engines", "model", BESIDE_THE_MODEL)
    _learning_rate(rewriter, block, node, sections)
    _extra_inputs(rewriter, block)
    return block


def _learning_rate(rewriter: Rewriter, block: Block, node: Node, sections: dict[str, Node]) -> None:
    """`base_learning_rate` stands beside the model there, in the optimizer here."""
    beside = given(node)
    rate, scale = (beside.get(key) for key in BESIDE_THE_MODEL)
    scope = Scope(rewriter, "model", node, block, block.below)
    block.below = []
    if rate is not None:
        value, note = plain(rate), "was base_learning_rate"
        if scale is not None and scale.value is True and type(value) in (int, float):
            factor = _scale(rewriter, sections, scale.where)
            value, note = value * factor, f"was base_learning_rate {value} times {factor}, for scale_lr"
        elif _own_name(rewriter, node).startswith(("ldm.", "taming.")):
            note += "; main.py multiplied it by GPUs, batch size and accumulated batches, unless told not to"
        optimizer = block.items.get("optimizer")
        made = optimizer.value if optimizer is not None else None
        if not isinstance(made, Block):
            name = DEFAULT_OPTIMIZERS.get(str(block.items["use"].value), "adamw")
            made = Block({"use": Item(name)}, origin=rate.where)
            scope.put("optimizer", made)
        Scope(rewriter, "model.optimizer", node, made).put("lr", value, rate, note)
    elif scale is not None:
        scope.drop("scale_lr", scale, "there is no base_learning_rate to scale")
    if rate is not None and scale is not None and scale.value is not True:
        scope.drop("scale_lr", scale, "the learning rate is what stands there")
    scope.close()


def _own_name(rewriter: Rewriter, node: Node) -> str:
    return rewriter.packages.own(target_of(node))


def _scale(rewriter: Rewriter, sections: dict[str, Node], origin: Origin) -> int:
    """What main.py multiplied the rate by: accumulated batches, GPUs, and the size of a batch."""

    def find(*path: str) -> Any:
        node = sections.get(path[0])
        for key in path[1:]:
            node = given(node).get(key) if node is not None else None
        return None if node is None else plain(node)

    batch = find("data", "params", "batch_size") or find("data", "params", "train", "loader", "batch_size")
    if type(batch) is not int:
        rewriter.gap(origin, "model.scale_lr", "the rate is scaled by the size of a batch, and there is none in data")
        return 1
    devices = find("lightning", "trainer", "devices")
    count = len([d for d in devices.split(",") if d.strip()]) if isinstance(devices, str) else devices or 1
    accumulated = find("lightning", "trainer", "accumulate_grad_batches") or 1
    numbers = [n for n in (batch, count, accumulated) if type(n) is int and abs(n) < LARGEST]  # the check says the rest
    return math.prod(numbers)


def _extra_inputs(rewriter: Rewriter, block: Block) -> None:
    """Batch entries for the network, which the loss handed over there, and a slot of the conditioner does here."""
    for key in dict.fromkeys(rewriter.extra_inputs):
        if key == "num_video_frames":
            network = block.items.get("network")
            if network is not None and isinstance(network.value, Block):
                network.value.below.append(
                    "num_video_frames was in each batch: give it here, e.g. num_video_frames: 14"
                )
            continue
        beside = "was in batch2model_keys"
        slot = Block({"input_key": Item(key), "output": Item(key, beside=beside), "embedder": Item("identity")})
        made = Block({"use": Item("general"), "embedders": Item([])})
        conditioner = block.items.setdefault("conditioner", Item(made)).value
        slots = conditioner.items.get("embedders") if isinstance(conditioner, Block) else None
        if slots is not None and isinstance(slots.value, list):
            slots.value.append(slot)
