"""`sgm convert config`: old files in, the text of a config out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sgm_core.config.tree import Node, Origin, plain
from sgm_plugins.tools.convert.data import convert_data
from sgm_plugins.tools.convert.document import Block, Item, write
from sgm_plugins.tools.convert.legacy import read_legacy
from sgm_plugins.tools.convert.rewriter import Rewriter, Scope
from sgm_plugins.tools.convert.tables import all_rules
from sgm_plugins.tools.convert.training import convert_lightning

BESIDE_THE_MODEL = ("base_learning_rate", "scale_lr")
SEED = 23
DEFAULT_OPTIMIZERS = {"diffusion": "adamw", "autoencoder": "adam"}
"""Those of the ancestor's engines."""


def convert_config(paths: Sequence[Path]) -> str:
    """The text of our config for old ones, which are merged from left to right. Nothing is built or imported.

    Raises:
        ConfigError: everything that has no counterpart, with file and line; a file that cannot be read.
    """
    tree, comments, problems = read_legacy(paths)
    rewriter = Rewriter(all_rules(), comments, problems)
    sections: dict[Any, Node] = tree.value if isinstance(tree.value, dict) else {}
    for key, node in sections.items():
        if key not in ("model", "data", "lightning"):
            problems.add(node.where, str(key), "a config of generative-models has model, data and lightning")
    if "model" not in sections:
        problems.add(tree.origin, "", "there is no 'model:': is this a config of generative-models?")
        problems.raise_if_any()

    top = Scope(rewriter, "", tree)
    top.put("seed", SEED, note="main.py's default")
    data = _data(rewriter, sections)
    model = _model(rewriter, sections["model"], sections)
    if model is not None:
        top.put("model", model, sections["model"])
    if data is not None:
        top.put("data", data, sections["data"])
    if "lightning" in sections:
        top.take(sections["lightning"])
        trainer, checkpoint = convert_lightning(rewriter, sections["lightning"])
        for key, block in (("trainer", trainer), ("checkpoint", checkpoint)):
            if block.items or block.below:
                top.put(key, block)
    top.close()
    problems.raise_if_any()
    names = " ".join(path.name for path in paths)
    head = [f"Converted from {names} by `sgm convert config`, with notes on what was changed or left out."]
    left = comments.rest()
    if left:
        top.block.below += ["", "Comments of the old file on what is not here any more:", *left]
    first = next(iter(top.block.items.values()))
    first.above = [*head, *first.above]
    return write(top.block)


def _data(rewriter: Rewriter, sections: dict[Any, Node]) -> Block | None:
    if "data" not in sections:
        return None
    block = convert_data(rewriter, sections["data"], set(_input_keys(sections["model"])))
    if block is not None:
        rewriter.image_key = "image"
    return block


def _input_keys(node: Node) -> Iterator[str]:
    """The batch entries that anything in a tree reads."""
    if isinstance(node.value, dict):
        for key, child in node.value.items():
            if key in ("input_key", "input_keys"):
                keys = plain(child)
                yield from [keys] if isinstance(keys, str) else [str(k) for k in keys] if isinstance(keys, list) else []
            yield from _input_keys(child)
    elif isinstance(node.value, list):
        for child in node.value:
            yield from _input_keys(child)


# --- the model -----------------------------------------------------------------------------------------------------


def _model(rewriter: Rewriter, node: Node, sections: dict[Any, Node]) -> Block | None:
    block = rewriter.component(node, "engines", "model", BESIDE_THE_MODEL)
    if block is None:
        return None
    _learning_rate(rewriter, block, node, sections)
    _extra_inputs(rewriter, block)
    return block


def _learning_rate(rewriter: Rewriter, block: Block, node: Node, sections: dict[Any, Node]) -> None:
    """`base_learning_rate` stands beside the model there, in the optimizer here."""
    rate, scale = (node.value.get(key) for key in BESIDE_THE_MODEL)
    scope = Scope(rewriter, "model", node, block, block.below)
    block.below = []
    if rate is not None:
        value, note = plain(rate), "was base_learning_rate"
        if scale is not None and scale.value is True and isinstance(value, (int, float)):
            factor = _scale(rewriter, sections, scale.where)
            value, note = value * factor, f"was base_learning_rate {value} times {factor}, for scale_lr"
        optimizer = block.items.get("optimizer")
        if optimizer is None:
            made = Block({"use": Item(DEFAULT_OPTIMIZERS[block.items["use"].value])})
            scope.put("optimizer", made)
        else:
            made = optimizer.value
        inner = Scope(rewriter, "model.optimizer", node, made)
        inner.put("lr", value, rate, note)
    elif scale is not None:
        scope.drop("scale_lr", scale, "there is no base_learning_rate to scale")
    if rate is not None and scale is not None and scale.value is not True:
        scope.drop("scale_lr", scale, "the learning rate is what stands there")
    scope.close()


def _scale(rewriter: Rewriter, sections: dict[Any, Node], origin: Origin) -> int:
    """What main.py multiplied the rate by: accumulated batches, GPUs, and the size of a batch."""

    def find(*path: str) -> Any:
        node = sections.get(path[0])
        for key in path[1:]:
            node = node.value.get(key) if node is not None and isinstance(node.value, dict) else None
        return None if node is None else plain(node)

    batch = find("data", "params", "batch_size") or find("data", "params", "train", "loader", "batch_size")
    if not isinstance(batch, int):
        rewriter.problems.add(
            origin, "model.scale_lr", "the rate is scaled by the size of a batch, and there is none in data"
        )
        return 1
    devices = find("lightning", "trainer", "devices")
    count = len([d for d in devices.split(",") if d.strip()]) if isinstance(devices, str) else devices or 1
    accumulated = find("lightning", "trainer", "accumulate_grad_batches") or 1
    numbers = [n for n in (batch, count, accumulated) if isinstance(n, int)]  # what is none, the check of it will say
    return math.prod(numbers)


def _extra_inputs(rewriter: Rewriter, block: Block) -> None:
    """Batch entries for the network, which the loss handed over there, and a slot of the conditioner does here."""
    for key in dict.fromkeys(rewriter.extra_inputs):
        if key == "num_video_frames":
            network = block.items.get("network")
            if network is not None:
                network.value.below.append(
                    "num_video_frames was in each batch: give it here, e.g. num_video_frames: 14"
                )
            continue
        slot = Block(
            {
                "input_key": Item(key),
                "output": Item(key, beside="was in batch2model_keys"),
                "embedder": Item("identity"),
            }
        )
        conditioner = block.items.setdefault(
            "conditioner", Item(Block({"use": Item("general"), "embedders": Item([])}))
        )
        conditioner.value.items["embedders"].value.append(slot)
