"""The lightning section: trainer, checkpoints, callbacks."""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Any

from sgm_core.config.tree import Node, join, plain
from sgm_core.registry import did_you_mean
from sgm_plugins.tools.catalog.source.reader import Sources
from sgm_plugins.tools.convert.document import Block
from sgm_plugins.tools.convert.nodes import given, target_of
from sgm_plugins.tools.convert.rewriter import Rewriter, Scope

STRATEGIES = {
    "DDPStrategy": "ddp",
    "FSDPStrategy": "fsdp",
    "DeepSpeedStrategy": "deepspeed",
    "SingleDeviceStrategy": "auto",
}
GONE = {
    "progress_bar_refresh_rate": "the progress bar needs none",
    "weights_summary": "callbacks: [model_summary]",
    "resume_from_checkpoint": "sgm train --resume RUN",
    "checkpoint_callback": "sgm always saves, see checkpoint",
    "default_root_dir": "sgm train --runs says where runs go",
    "plugins": "the run has its own",
    "find_unused_parameters": "strategy: ddp_find_unused_parameters_true",
}
STEP_CHECKPOINTS = {
    "filename": "{epoch:06}-{step:09}",
    "save_top_k": -1,
    "every_n_train_steps": 10000,
    "save_weights_only": True,
}
"""What main.py gave `metrics_over_trainsteps_checkpoint`, unless a config said more."""


def convert_lightning(rewriter: Rewriter, node: Node) -> tuple[Block, Block]:
    """Our `trainer` and `checkpoint`; empty where there is nothing to say."""
    trainer = Scope(rewriter, "lightning.trainer", node)
    checkpoint = Scope(rewriter, "lightning.modelcheckpoint", node)
    trainer.block.origin = checkpoint.block.origin = node.where
    for key, child in trainer.pairs("", node):
        trainer.take(child)
        match key:
            case "trainer":
                _trainer(trainer, child)
            case "modelcheckpoint":
                _checkpoint(checkpoint, child)
            case "strategy":
                _strategy(trainer, child)
            case "callbacks":
                pass
            case "find_unused_parameters":
                if child.value is True:
                    trainer.put("strategy", "ddp_find_unused_parameters_true", child, f"was {key}: true")
                else:
                    trainer.drop(key, child, "`ddp` looks for none")
            case "logger":
                trainer.drop("logger", child, "metrics.jsonl is always written; see `sgm list loggers` for more")
            case _:
                known = "trainer, callbacks, modelcheckpoint, strategy, logger"
                Scope(rewriter, "lightning", node, waiting=trainer.waiting).problem(
                    key, child, f"this is not known here. Known: {known}"
                )
    if "callbacks" in given(node):
        _callbacks(rewriter, trainer, given(node)["callbacks"])
    trainer.close()
    checkpoint.close()
    return trainer.block, checkpoint.block


@functools.cache
def _arguments() -> Collection[str]:
    """Of Lightning's trainer."""
    reader = Sources()
    return reader.signature(reader.named("lightning.pytorch:Trainer")).parameters


def _trainer(scope: Scope, node: Node) -> None:
    known = _arguments()
    for key, child in scope.pairs("", node):
        if key in ("devices", "gpus"):
            _devices(scope, key, child)
        elif key in GONE:
            scope.drop(key, child, GONE[key])
        elif key == "strategy" and isinstance(child.value, dict):
            _strategy(scope, child)
        elif key in known:
            scope.put(key, plain(child), child)
        else:
            scope.problem(key, child, f"Lightning's trainer has no '{key}'.{did_you_mean(key, known)}")


def _devices(scope: Scope, key: str, node: Node) -> None:
    """A text was a list of GPU numbers there (`0,`): their count here."""
    value = plain(node)
    if isinstance(value, str) and value not in ("auto", "-1"):
        numbers = [number for number in value.split(",") if number.strip()]
        scope.put("devices", len(numbers), node, f"was '{value}', numbers of GPUs: CUDA_VISIBLE_DEVICES chooses them")
    else:
        scope.put("devices", value, node, "" if key == "devices" else f"was {key}")


def _strategy(scope: Scope, node: Node) -> None:
    target = target_of(node)
    name = STRATEGIES.get(target.rpartition(".")[2]) if target else plain(node)
    if not isinstance(name, str):
        message = f"unknown target '{target}': write its name among Lightning's strategies"
        scope.missing("strategy", node, message)
        return
    params = given(node).get("params")
    for key, child in scope.pairs("params", params):
        if key == "find_unused_parameters" and name == "ddp":
            name = "ddp_find_unused_parameters_true" if child.value is True else name
        else:
            scope.drop(key, child, "a config gives a strategy by name")
    scope.put("strategy", name, node)


def _checkpoint(scope: Scope, node: Node) -> None:
    """When the run saves; what is special about a monitored checkpoint is a callback's."""
    params = dict(scope.pairs("", node)).get("params")
    for key, child in scope.pairs("params", params):
        if key == "every_n_train_steps":
            scope.put("every_n_steps", plain(child), child)
        elif key == "save_top_k" and isinstance(child.value, int) and child.value >= 0:
            scope.put("keep_last", child.value, child, "was save_top_k")
        elif key in (
            "save_top_k",
            "save_last",
            "verbose",
            "dirpath",
            "filename",
            "monitor",
            "mode",
            "auto_insert_metric_name",
        ):
            scope.drop(key, child, "a run keeps last.ckpt and the newest; callbacks: [model_checkpoint] does more")
        else:
            scope.problem(f"params.{key}", child, "this is not known of a checkpoint")


def _callbacks(rewriter: Rewriter, trainer: Scope, node: Node) -> None:
    made: list[Any] = []
    images = False
    for name, child in trainer.pairs("callbacks", node):
        path = join("lightning.callbacks", name)
        images = images or name == "image_logger"
        if name == "image_logger" and _disabled(child):
            trainer.drop(name, child, "it was disabled")
        elif name == "metrics_over_trainsteps_checkpoint":
            made.append(_step_checkpoints(rewriter, child, path))
        else:
            block = rewriter.component(child, "callbacks", path)
            block.items["use"].above += rewriter.comments.take(child.where)[0]
            made.append(block)
    if not images:  # main.py always had one
        default = Scope(rewriter, "lightning.callbacks", node)
        default.put("use", "image_logger", note="main.py always had one")
        default.put("max_images", 4)
        made.append(default.block)
    trainer.put("callbacks", made, node)


def _disabled(node: Node) -> bool:
    for key in ("params", "disabled"):
        if not isinstance(node.value, dict) or key not in node.value:
            return False
        node = node.value[key]
    return node.value is True


def _step_checkpoints(rewriter: Rewriter, node: Node, path: str) -> Block:
    scope = Scope(rewriter, path, node)
    scope.block.origin = node.where
    scope.put("use", "model_checkpoint", node, "was metrics_over_trainsteps_checkpoint")
    params = dict(scope.pairs("", node)).get("params")
    for key, child in scope.pairs("params", params):
        scope.put(key, plain(child), child)
    for key, value in STEP_CHECKPOINTS.items():
        if key not in scope.block.items:
            scope.put(key, value, note="the default of main.py")
    scope.close()
    return scope.block
