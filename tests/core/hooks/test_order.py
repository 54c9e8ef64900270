"""No result depends on the order in which plugins are installed or found."""

import random
import sys
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny_model import make_engine

import sgm_core as sgm
from sgm_core.errors import SgmError
from sgm_core.hooks.callbacks import Compartments, added_callbacks
from sgm_core.hooks.commands import offers_of
from sgm_core.hooks.images import extra_images
from sgm_core.hooks.session import Session
from sgm_core.hooks.specs import RunParts
from sgm_core.registry import index

EVERYTHING = """
import random

import lightning as L
import torch

NAME = __name__[-1]

@hookimpl
def session_start(command): print(NAME, "start", command)

@hookimpl
def session_finish(command): print(NAME, "finish", command)

@hookimpl
def config_loaded(config):
    config["vars"] = config.get("vars", {}) | {NAME: 1}
    return {f"vars.{NAME}": len(config["vars"]), "vars.FIRST.second" if NAME in "CLASH" else f"vars.{NAME}2": NAME}

@hookimpl
def component_built(component, entry, path): print(NAME, entry.qualified, path)

class Named(L.Callback):
    name = NAME

@hookimpl
def lightning_callbacks(config):
    config["trainer"] = {"max_steps": NAME}
    return [Named()]

@hookimpl
def checkpoint_save(engine, trainer): return [NAME, random.random() < 2]

class Command:
    name = NAME
    def add_arguments(self, parser): ...
    def run(self, options): ...

@hookimpl
def commands(): return {"shared": Command(), f"only-{NAME}": Command()}

@hookimpl
def extra_images(engine, batch): return {"noise": torch.rand(1, 1, 2, 2) * batch.mul_(0.5)}
"""


def everything(capsys) -> tuple:
    """What all hooks give."""
    capsys.readouterr()
    with sgm.session("train"):
        try:
            config = sgm.load_config("digits")
            said = config.to_yaml()
        except SgmError as error:
            said, config = str(error), sgm.load_config("digits", overrides=["vars={}"])
        sgm.build("denoisers", {"use": "continuous", "scaling": "edm"})
        run = RunParts(Path("run"), config, Path("metrics.jsonl"), False, None)
        callbacks = [callback.name for callback in added_callbacks(run) if hasattr(callback, "name")]
        checkpoint: dict = {}
        Compartments().on_save_checkpoint(None, None, checkpoint)
        images = extra_images(make_engine(), lambda: torch.ones(1), 0)
    drawn = {key: image.sum().item() for key, image in images.items()}
    offers = offers_of(Session(), ())
    commands = [(offer.name, offer.qualified, offer.command.name) for offer in offers]
    return said, callbacks, checkpoint, list(drawn.items()), commands, capsys.readouterr()


def check(make_plugin, capsys, clash: str) -> tuple:
    names = "bdace"
    folders = [str(make_plugin(f"sgm-{name}", EVERYTHING.replace("CLASH", clash))) for name in names]
    rest = [path for path in sys.path if path not in folders]
    expected = everything(capsys)

    @given(st.permutations(folders))
    @settings(max_examples=20)
    def same(order):
        sys.path[:] = rest + order if random.random() < 0.5 else order + rest
        index.refresh()
        assert everything(capsys) == expected

    same()
    return expected


def test_the_results_of_all_hooks_are_those_of_any_order(make_plugin, capsys):
    said, callbacks, checkpoint, drawn, commands, printed = check(make_plugin, capsys, clash="")
    assert (callbacks, printed.err) == (list("abcde"), "")
    assert len(checkpoint["sgm_plugins"]) == len(drawn) == 5
    assert len(commands) == 10
    assert "a2: a" in said


def test_so_are_the_contradictions_of_plugins(make_plugin, capsys):
    said, *_ = check(make_plugin, capsys, clash="ce")
    assert said.startswith("plugins contradict each other:\nplugin sgm-c:main 1.0 proposes vars.FIRST.second = 'c'\n")
