"""Measures a checkout through its public interface only: `record.py` writes the results, the tests compare them.

One function does both, so that a difference is one of the code that is measured.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import io
import json
import os
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from importlib.metadata import distribution, entry_points
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import sgm_core as sgm

HERE = Path(__file__).parent
ARTEFACTS = HERE / "artefacts"
PLUGIN = HERE / "plugin"
"""On `sys.path`, the installed distribution `sgm-recorded`."""

QUICK = [
    "trainer.log_every_n_steps=1",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "trainer.num_sanity_val_steps=0",
    "model.sampler.num_steps=3",
]
SHORT = [
    *(setting for setting in QUICK if not setting.startswith("model.")),
    "trainer.max_steps=6",
    "trainer.limit_train_batches=4",
    "trainer.limit_val_batches=1",
    "trainer.check_val_every_n_epoch=1",
    "trainer.callbacks=[]",
    "data.batch_size=8",
]
UNET = ["model.network.channel_mult=[1]", "model.sampler.num_steps=3"]
STAGE = ["model.first_stage.encoder.ch_mult=[1, 1]", "model.first_stage.decoder.ch_mult=[1, 1]"]

CONFIGS = {
    "digits": [*UNET, "model.network.dropout=0.1", "model.loss_fn.offset_noise_level=0.1"],
    "digits_text": [
        *UNET,
        "model.network.context_dim=8",
        "model.network.attention_resolutions=[1]",
        "model.conditioner.embedders[0].embedder=sgm-recorded:captions",
    ],
    "autoencoder_digits": [
        *STAGE,
        "model.loss.adversarial.start=3",
        "model.loss.adversarial.discriminator.ndf=8",
        "model.optimizer.lr=1.0e-4",  # AdamW's first steps have the size of lr wherever a gradient is near zero
    ],
    "latent_digits": [*UNET, *STAGE],
}
"""Shipped configs, in the order in which they are trained, with what makes them small."""

RUN = [
    "model.network={use: tiny, channels: 1, condition: 16}",
    "model.conditioner.embedders[0].embedder.embed_dim=16",
    "model.lr_schedule={use: cosine, warmup_steps: 4, total_steps: 40}",
    "model.loss_fn.offset_noise_level=0.1",
    *QUICK,
    "trainer.max_steps=26",
    "trainer.check_val_every_n_epoch=1",
    "trainer.limit_val_batches=1",
    "trainer.log_every_n_steps=2",
    "checkpoint={every_n_steps: 11, keep_last: 1}",
]
"""Of `digits`, for the recorded run: an epoch has 22 steps, and a checkpoint comes between two logged steps."""

CACHED = [
    "model.network={use: tiny, channels: 4, condition: 8}",
    "model.first_stage=sgm-recorded:cells",
    "model.cache_latents=true",
    "model.conditioner.embedders[0].embedder=sgm-recorded:captions",
    "model.conditioner.embedders[0].cache=true",
    *QUICK,
    *SHORT,
]
"""Of `digits_text`, for the recorded cache."""

MODULES = [
    "sgm_core.conditioning",
    "sgm_core.errors",
    "sgm_core.kinds",
    "sgm_core.randomness",
    "sgm_core.registry",
    "sgm_core.roles",
    "sgm_core.shapes",
    "sgm_core.slots",
    "sgm_core.testing",
    "sgm_core.testing.fixtures",
]
"""What plugins import."""


def main(arguments: list[str]) -> int:
    """The installed command `sgm`."""
    found: Callable[[list[str]], int] = next(iter(entry_points(group="console_scripts", name="sgm"))).load()
    return found(arguments)


def train(config: str, name: str, overrides: Iterable[str]) -> Path:
    """The folder of a finished run, under the current folder."""
    assert main(["train", config, "--name", name, *overrides]) == 0
    return Path("runs") / name


def rows(run: Path) -> list[dict[str, Any]]:
    """Its logged steps."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def losses(run: Path) -> list[dict[str, str]]:
    """By logged step, everything that is a loss, in hexadecimal: no digit is lost."""
    return [{k: float(v).hex() for k, v in row.items() if "loss" in k and v != "NaN"} for row in rows(run)]


def numbers(config: str) -> dict[str, Any]:
    """Seeded losses of a shipped config, and what the trained model gives: samples, or the autoencoder's picture."""
    overrides = [*SHORT, *CONFIGS[config]]
    if config == "latent_digits":
        overrides.append("model.first_stage.weights=runs/autoencoder_digits")
    run = train(config, config, overrides)
    engine = sgm.load_engine(run)
    if config == "autoencoder_digits":
        images = torch.linspace(-1, 1, 128).reshape(2, 1, 8, 8)
        given = engine.log_images({"image": images}, n=2, seed=5)["reconstructions"]
    else:
        given = samples(engine, {"caption": ["a seven", ""]} if "text" in config else {"cls": [3, 7]})
    return {"losses": losses(run), "pictures": hexadecimal(given), "keys": keys(run / "checkpoints" / "last.ckpt")}


def samples(engine: Any, batch: dict[str, Any]) -> torch.Tensor:
    drawn: torch.Tensor = engine.generate(batch, seed=5)
    return drawn


def hexadecimal(tensor: torch.Tensor) -> list[str]:
    return [value.hex() for value in tensor.detach().flatten().tolist()]


def keys(checkpoint: Path) -> dict[str, Any]:
    """The names in a checkpoint: of its entries, of its weights with their shapes, of optimizer and callback states."""
    content = torch.load(checkpoint, weights_only=True)
    return {
        "entries": sorted(content),
        "provenance": sorted(content["sgm"].keys() - {"data"}),  # which came later
        "components": sorted(content["sgm"]["components"][0]),
        "weights": {name: list(value.shape) for name, value in sorted(content["state_dict"].items())},
        "callbacks": sorted(content["callbacks"]),
        "optimizers": [
            {"groups": [len(group["params"]) for group in state["param_groups"]], "state": sorted(state["state"][0])}
            for state in content["optimizer_states"]
        ],
    }


def files(run: Path) -> list[str]:
    """The files of a run folder."""
    return sorted(path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file())


def help_of(command: list[str]) -> tuple[str, argparse.ArgumentParser]:
    """The text that `--help` prints, and the parser that printed it."""
    parsers: list[argparse.ArgumentParser] = []
    original = argparse.ArgumentParser.print_help

    def noted(self: argparse.ArgumentParser, file: Any = None) -> None:
        parsers.append(self)
        original(self, file)

    printed = io.StringIO()
    with mock.patch.object(argparse.ArgumentParser, "print_help", noted), redirect_stdout(printed):
        code = exit_code([*command, "--help"])
    assert code == 0, f"sgm {command} --help: {code}"
    return printed.getvalue(), parsers[0]


def exit_code(arguments: list[str]) -> int:
    """Of a command line; the environment that `--plugins` sets does not outlive it."""
    with mock.patch.dict(os.environ):
        try:
            return main(arguments)
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)


def quiet_exit_code(arguments: list[str]) -> tuple[int, str]:
    """With what it printed."""
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        return exit_code(arguments), printed.getvalue()


def words(line: str, artefacts: Path = ARTEFACTS) -> list[str]:
    """A command line, its words in capitals replaced by the files that they stand for."""
    stand_for = {
        "EXPORT": artefacts / "export.safetensors",
        "CHECKPOINT": artefacts / "last.ckpt",
        "RUN": artefacts / "run",
        "NONFINITE": artefacts / "nonfinite",
        "PICTURES": artefacts / "pictures",
    }
    return [str(stand_for.get(word, word)) for word in line.split()]


def options(parser: argparse.ArgumentParser) -> dict[str, dict[str, Any]]:
    """What can be written after a command, by its spellings: everything but the prose."""
    return {
        ", ".join(action.option_strings) or f"argument {action.dest}": {
            "metavar": action.metavar,
            "nargs": action.nargs,
            "default": action.default if action.default is None else str(action.default),
            "choices": None if action.choices is None else [str(choice) for choice in action.choices],
            "required": action.required,
            "repeatable": type(action).__name__ == "_AppendAction",
        }
        for action in parser._actions
    }


def interface() -> dict[str, Any]:
    """What plugins rely on: public names, modules, groups, hooks with their arguments, what roles ask for."""
    specs = import_module("sgm_core.hooks.specs")
    mark = f"{sgm.hookimpl.project_name}_spec"
    groups: dict[str, list[str]] = {}
    for entry in distribution("sgm-core").entry_points:
        groups.setdefault(entry.group, []).append(entry.name)
    return {
        "sgm_core": sorted({*sgm.__all__, "hookimpl", "session"}),
        "modules": {name: sorted(defined(import_module(name))) for name in MODULES},
        "groups": {group: sorted(names) for group, names in sorted(groups.items())},
        "hooks": {
            name: list(inspect.signature(hook).parameters)
            for name, hook in sorted(vars(specs).items())
            if hasattr(hook, mark)
        },
        "roles": {
            f"{name}.{method}": list(inspect.signature(function).parameters)
            for name, role in sorted(vars(import_module("sgm_core.roles")).items())
            if inspect.isclass(role) and role.__module__ == "sgm_core.roles"
            for method, function in sorted(vars(role).items())
            if inspect.isfunction(function) and (not method.startswith("_") or method == "__call__")
        },
    }


def defined(module: Any) -> list[str]:
    """The public names of a module: those that it lists, else classes, functions, constants and types in its source."""
    names: list[str] = list(getattr(module, "__all__", ()))
    if names:
        return names
    for node in ast.parse(inspect.getsource(module)).body:
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                names.append(name)
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                names.append(name)
    return [name for name in names if len(name.strip("_")) > 1 and not name.startswith("_")]
