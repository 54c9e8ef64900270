"""The hooks. A plugin implements any of them, with all or some of the parameters, decorated `@sgm_core.hookimpl`.

What holds for all: an implementation that raises `SgmError` speaks to the user and ends the command; whatever else it
raises, or a result of another form than said here, leaves its plugin out for the rest of the session, with a line on
stderr (with `SGM_PLUGINS_STRICT=1` that ends the command too). Plugins are called in the order of their distributions'
names, and none of them sees what another one gave. A hook is not called again from inside itself. A run with several
processes calls its hooks in each of them, and needs the same answers there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pluggy import HookimplMarker, HookspecMarker

if TYPE_CHECKING:
    import argparse

    from lightning.pytorch import Callback, LightningModule, Trainer
    from torch import Tensor

    from sgm_core.config.api import Config
    from sgm_core.config.tree import Problem
    from sgm_core.registry import Entry

hookspec = HookspecMarker("sgm")
hookimpl = HookimplMarker("sgm")


class Command(Protocol):
    """A sub-command of `sgm`, an object or a module: its docstring is its help."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare options and arguments; `--plugins`, `--code` and `--debug` are there already for every command."""

    def run(self, options: argparse.Namespace) -> int:
        """Do it; the exit code is 0 where all went well. A `ValueError` is shown to the user without a traceback."""


class RunParts(NamedTuple):
    """What a plugin's callbacks may need of the run that they join.

    Attributes:
        folder: of the run.
        config: checked; `config.build("report")` gives the settings of the section `report`.
        metrics: the file of its metrics, a line of JSON per logged step.
        resumed: whether it continues from a checkpoint.
        callbacks: those of `trainer.callbacks`, built; None where the config has no such key.
    """

    folder: Path
    config: Config
    metrics: Path
    resumed: bool
    callbacks: list[Callback] | None


@hookspec
def session_start(command: str) -> None:
    """A session begins: the plugins are loaded, nothing else has happened.

    Args:
        command: `train`, `sample`, `replay`, `explain`, the name of a plugin's command, or `python`.
    """


@hookspec
def session_finish(command: str, exit_code: int, error: BaseException | None) -> None:
    """The session ends, for every plugin that was told of its start, also where the command fails.

    Args:
        command: as for `session_start`.
        exit_code: 0 fine, 1 failed, 130 interrupted.
        error: what ended the session, if anything was raised. What this hook raises does not replace it.
    """


@hookspec
def config_loaded(config: dict[str, Any]) -> Mapping[str, Any] | None:
    """A config was composed from its files and the command line; it is not checked yet.

    Gives patches, key path -> plain value: `{"trainer.max_steps": 10}` acts as `trainer.max_steps=10` on the command
    line, which overrides it with a note. Two plugins that patch one key, or a key and one inside it, end the command.
    `${...}` in a value is interpolated. A resumed run's config is not patched again. `sgm check` calls no hooks.

    Args:
        config: plain data; a copy, without anyone's patches.
    """


@hookspec
def component_built(component: Any, entry: Entry, path: str) -> None:
    """A component was built, after all that are in it. An optimizer or lr schedule is built when training starts.

    Args:
        component: the object.
        entry: its kind, name, distribution and version.
        path: where it stands in the config, `model.sampler.guider`; empty for one that `build` made alone.
    """


@hookspec
def check_config(config: Config, training: bool) -> Iterable[Problem | tuple[str, str] | str] | None:
    """A whole config was checked, nothing is built yet; gives what else is wrong with it.

    Each item is a problem: `(path, message)`, shown with the line of that path, or a `Problem` with a line of its own.
    A text alone is a note on what could not be compared. Called before a model is built (outside a session only for
    built-in plugins), and by `sgm check --shapes`, `sgm train` and `sgm explain`.

    Args:
        config: `config["model.network"]` is plain data, `config.node(path).origin` its line.
        training: whether the config's own `data` will be used.
    """


@hookspec
def train_options(parser: argparse.ArgumentParser) -> None:
    """`sgm train` declares its options; a plugin may add some, which `before_training` reads.

    Args:
        parser: of the command; add to it with `parser.add_argument`.
    """


@hookspec
def before_training(options: argparse.Namespace, config: Config, folder: Path) -> int | None:
    """`sgm train` is about to train. An exit code ends the command in place of training; None lets it go on.

    Args:
        options: of the command line.
        config: of the run; of its components none is built.
        folder: of the run; a new one does not exist yet.
    """


@hookspec
def lightning_callbacks(config: dict[str, Any], run: RunParts) -> list[Callback] | None:
    """`sgm train` makes a trainer; gives callbacks to add, in any order. What they raise later ends the run.

    Args:
        config: the resolved config as plain data; a copy.
        run: see `RunParts`.
    """


@hookspec
def checkpoint_save(engine: LightningModule, trainer: Trainer) -> Any:
    """`sgm train` saves a checkpoint; gives what to keep in it, if anything. What rank 0 gives is written.

    It is made of dicts, lists, tuples, None, booleans, numbers, texts and tensors, which
    `torch.load(weights_only=True)` reads. A run that is resumed without the plugin keeps it in its checkpoints.
    """


@hookspec
def checkpoint_load(engine: LightningModule, trainer: Trainer, state: Any) -> None:
    """`sgm train --resume` has read a checkpoint with something of this plugin. The weights are restored by then; the
    optimizers, the step count and the states of callbacks not yet.

    Args:
        state: what `checkpoint_save` gave, its tensors on the CPU.
    """


@hookspec
def commands() -> Mapping[str, Command] | None:
    """Sub-commands to add to `sgm`, by name; a built-in name cannot be taken.

    Called only by `sgm --help` and for a command that is no entry point. The command runs in a session. A name that two
    plugins offer is written `distribution:name`.
    """


@hookspec
def extra_images(engine: LightningModule, batch: Any) -> Mapping[str, Tensor] | None:
    """The `image_logger` draws; gives more pictures by name, each (n, c, h, w) in [-1, 1], c = 1 or 3.

    They are shown as `distribution.plugin.name`. The engine is in eval mode, without gradients; torch's random state is
    that of the logger's seed, and is put back as it was.

    Args:
        batch: the one that is always drawn, on the engine's device; a copy.
    """
