"""Checkpoints: read safely, loaded strictly with reasons, and able to rebuild the engine that wrote them."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from sgm_core.errors import SgmError
from sgm_core.files import replacing
from sgm_core.registry import BUILTIN, LOCAL, Entry, RegistryError, index
from sgm_core.shapes import only_measured

if TYPE_CHECKING:
    from sgm_core.engine import DiffusionEngine

PROVENANCE_KEY = "sgm"
"""Where a checkpoint holds its `Provenance`: a key of a `.ckpt`, an entry of a `.safetensors` file's metadata."""

AVERAGE_PREFIX = "model_ema."


class CheckpointError(SgmError):
    """A checkpoint that can not be read, or does not fit the model."""


@dataclass(frozen=True)
class Provenance:
    """How to build the engine again.

    Attributes:
        config: the resolved config.
        components: the lock: kind, name, distribution and version of every component in it, and of the plugins (kind
            `plugins`) whose hooks took part.
        latent_shape: (c, *grid) of what it was trained on.
    """

    config: dict[str, Any]
    components: list[dict[str, str]] = field(default_factory=list)
    latent_shape: list[int] | None = None

    @staticmethod
    def of(config: Mapping[str, Any], entries: Iterable[Entry]) -> Provenance:
        """The provenance of a checked config."""
        return Provenance(
            dict(config),
            [{"kind": e.kind, "name": e.name, "distribution": e.distribution, "version": e.version} for e in entries],
        )

    def with_shape(self, shape: Sequence[int] | None) -> Provenance:
        return replace(self, latent_shape=None if shape is None else list(shape))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_json(self) -> str:
        """For the metadata of a `.safetensors` file. The config is YAML in it: JSON has no integer keys."""
        from sgm_core.config.api import config_from

        return json.dumps({**self.to_dict(), "config": config_from(self.config).to_yaml()})

    @staticmethod
    def from_json(text: str) -> Provenance:
        from sgm_core.config.tree import parse, plain

        data = json.loads(text)
        return Provenance.from_dict({**data, "config": plain(parse(data["config"], PROVENANCE_KEY))})

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Provenance:
        return Provenance(data["config"], data.get("components", []), data.get("latent_shape"))

    def missing(self) -> list[str]:
        """A line for each component that is not installed here, with the command that installs it."""
        lines = []
        for part in self.components:
            kind, name, distribution = part["kind"], part["name"], part["distribution"]
            if kind == "plugins":  # see `missing_plugins`
                continue
            try:
                index.find(kind, name if distribution in (BUILTIN, LOCAL) else f"{distribution}:{name}")
            except RegistryError:
                blocked = [
                    (e, why) for e, why in index.unavailable(kind) if (e.name, e.distribution) == (name, distribution)
                ]
                if distribution == LOCAL:
                    remedy = "it was registered in the process that trained; pass --code FILE.py with its definition"
                else:
                    remedy = blocked[0][1] if blocked else f"pip install {distribution}=={part['version']}"
                lines.append(f"{kind} '{name}' {'can not be used' if blocked else 'is missing'}: {remedy}")
        return lines

    def missing_plugins(self) -> list[str]:
        """A line for each plugin that took part with its hooks and is not here, which keeps nothing from loading."""
        here = {(entry.distribution, entry.name) for entry in index.entries("plugins")}
        return [
            f"the plugin {part['distribution']}:{part['name']} {part['version']} took part, and is not here"
            for part in self.components
            if part["kind"] == "plugins" and (part["distribution"], part["name"]) not in here
        ]

    def changed(self) -> list[str]:
        """A line for each distribution that is installed here in another version."""
        installed = {entry.distribution: entry.version for entry in index.entries()}
        used = dict.fromkeys((part["distribution"], part["version"]) for part in self.components)
        return [
            f"{distribution} was {version} then, and is {installed[distribution]} here"
            for distribution, version in used
            if installed.get(distribution, version) != version
        ]


@dataclass(frozen=True)
class Checkpoint:
    """What was read from a file."""

    path: Path
    weights: dict[str, Tensor]
    provenance: Provenance | None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a `.safetensors` or `.ckpt` file, memory-mapped; no code in it is ever run.

    Raises:
        CheckpointError: no such file, truncated, not a checkpoint, or holding more than plain data.
    """
    refuse_url(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        return _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    except CheckpointError:
        raise
    except Exception as error:  # the readers raise many kinds for a broken file; all of them mean this
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: not a readable checkpoint: {reason}") from error


def _read_safetensors(path: Path) -> Checkpoint:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        text = (file.metadata() or {}).get(PROVENANCE_KEY)
    return Checkpoint(path, weights, Provenance.from_json(text) if text else None)


def _read_torch(path: Path) -> Checkpoint:
    data = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    weights = data.get("state_dict", data) if isinstance(data, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointError(f"{path}: holds no state_dict of tensors")
    provenance = data.get(PROVENANCE_KEY)
    return Checkpoint(path, weights, Provenance.from_dict(provenance) if provenance else None)


def save_weights(engine: nn.Module, path: Path, provenance: Provenance | None) -> None:
    """Export the state dict of an engine as one `.safetensors` file that `load_engine` reads, see `write_weights`."""
    write_weights(engine.state_dict(), path, provenance)


def write_weights(state: Mapping[str, Tensor], path: Path, provenance: Provenance | None) -> None:
    """Write a state dict as one `.safetensors` file that `load_engine` reads.

    The averages are those keys that begin with `model_ema.`: `model_ema.shadow.NAME` is the average of the raw NAME.

    Raises:
        OSError: it can not be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    weights: dict[str, Tensor] = {}
    storages: set[int] = set()
    for key, value in state.items():
        tensor = value.detach().cpu().contiguous()
        if tensor.numel() and tensor.data_ptr() in storages:
            tensor = tensor.clone()  # tied weights: the format has no aliases
        storages.add(tensor.data_ptr())
        weights[key] = tensor
    metadata = {PROVENANCE_KEY: provenance.to_json()} if provenance else None
    with replacing(path) as temporary:
        try:
            save_file(weights, temporary, metadata=metadata)
        except SafetensorError as error:
            raise OSError(str(error).rpartition("error: ")[2]) from error


# --- loading -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LoadReport:
    """How a checkpoint fits a model. Empty lists mean that every key was loaded."""

    path: Path
    missing: list[str]
    unexpected: list[str]
    shapes: list[str]

    @property
    def fits(self) -> bool:
        return not (self.missing or self.unexpected or self.shapes)

    def __str__(self) -> str:
        lines = [f"{self.path} does not fit this model:"]
        for title, keys in (
            ("missing in the file", self.missing),
            ("not in the model", self.unexpected),
            ("of another shape", self.shapes),
        ):
            if keys:
                shown = ", ".join(keys[:5]) + (f", ... ({len(keys)} in all)" if len(keys) > 5 else "")
                lines.append(f"  {title}: {shown}")
        return "\n".join(lines)


def compare(path: Path, own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> LoadReport:
    """The weights of a file beside a model's own."""
    return LoadReport(
        path,
        missing=[key for key in own if key not in weights],
        unexpected=[key for key in weights if key not in own],
        shapes=[
            f"{key} {tuple(weights[key].shape)} for {tuple(own[key].shape)}"
            for key in own
            if key in weights and weights[key].shape != own[key].shape
        ],
    )


def load_into(engine: Any, checkpoint: Checkpoint) -> LoadReport:
    """Load all weights or none.

    A module may have `ignored_keys`, what files hold of it that is no weight: the position ids of older CLIPs, say.
    The average is optional on both sides: a file without one starts it from the file's weights, a model without
    one takes the live weights.

    Raises:
        CheckpointError: keys or shapes differ; the model is unchanged.
    """
    from sgm_core.cache.parts import cached_parts

    average = getattr(engine, "model_ema", None)  # any LightningModule may be an engine
    own = engine.state_dict()
    weights = checkpoint.weights
    has_average = any(key.startswith(AVERAGE_PREFIX) for key in weights)
    if average is None or not has_average:
        weights = {key: value for key, value in weights.items() if not key.startswith(AVERAGE_PREFIX)}
        own = {key: value for key, value in own.items() if not key.startswith(AVERAGE_PREFIX)}
    ignored = {f"{name}.{key}" for name, part in engine.named_modules() for key in getattr(part, "ignored_keys", ())}
    weights = {key: value for key, value in weights.items() if key in own or key not in ignored}
    cached = tuple(f"{name}." for name in cached_parts(engine))  # they take what is there, and need nothing
    report = compare(
        checkpoint.path,
        {key: value for key, value in own.items() if not key.startswith(cached)},
        {key: value for key, value in weights.items() if not key.startswith(cached)},
    )
    if not report.fits:
        raise CheckpointError(str(report))
    engine.load_state_dict(weights, strict=False)
    if average is not None and not has_average:
        average.track(getattr(engine, "averaged_parameters", engine.trained_parameters)())
    return report


_restoring: ContextVar[bool] = ContextVar("restoring", default=False)


@contextmanager
def restoring() -> Iterator[None]:
    """Inside, an engine is built whose weights come from a checkpoint: `load_part` reads no file.

    So a checkpoint is all that is needed, whatever became of the files that the training started from.
    """
    token = _restoring.set(True)
    try:
        yield
    finally:
        _restoring.reset(token)


def load_part(part: nn.Module, path: Path, prefix: str, ignore: tuple[str, ...] = ()) -> None:
    """Give a part of a model the weights that it has in a file or a run: all of them or none.

    Args:
        part: the module.
        path: a run folder, a `.ckpt` or a `.safetensors` file: of the whole model, or of the part alone. If the model
            has averages of the part's weights, those are taken.
        prefix: of the part's keys in a whole model, `first_stage_model.`; in a file without any such key all are its.
        ignore: beginnings of keys in the file, without the prefix, that do not matter.

    Raises:
        CheckpointError: the file is not there or can not be read; its keys or shapes are not those of the part.
    """
    if _restoring.get() or only_measured():
        return
    refuse_url(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such run or checkpoint to take the weights from; train it first")
    from sgm_core.manifest import to_load

    checkpoint = read_checkpoint(to_load(path, verify=True))
    weights = checkpoint.weights
    found: dict[str, Tensor] = {}
    for start in (prefix, f"{AVERAGE_PREFIX}shadow.{prefix}"):  # the average, where there is one, comes last
        found |= {key.removeprefix(start): value for key, value in weights.items() if key.startswith(start)}
    if not found:
        found = {key: value for key, value in weights.items() if not key.startswith(AVERAGE_PREFIX)}
    found = {key: value for key, value in found.items() if not key.startswith(ignore)}
    report = compare(checkpoint.path, part.state_dict(), found)
    if not report.fits:
        raise CheckpointError(str(report))
    part.load_state_dict(found)


def load_engine(path: str | Path, verify: bool | None = None) -> DiffusionEngine:
    """The engine that a run folder, a `.ckpt` or a `.safetensors` export holds: built, loaded, in eval mode.

    Of a run folder it is the newest checkpoint that is whole, with a warning for each that is not.

    Args:
        path: the folder or file.
        verify: whether the content of a checkpoint is compared with the sum in its manifest, for which all of it is
            read. None does so up to 2 GiB; the size is always compared.

    Raises:
        CheckpointError: no such file, one that is not what its manifest says, no config in it, components that are
            not installed (with the command that installs them), weights that do not fit.
        ConfigError, BuildError: the config does not build with the installed versions.
    """
    from sgm_core.manifest import to_load

    refuse_url(path)
    engine = rebuilt(read_checkpoint(to_load(Path(path), verify)))
    engine.eval()
    return engine


def rebuilt(checkpoint: Checkpoint) -> DiffusionEngine:
    """The engine of a checkpoint, in training mode. It caches nothing.

    Raises:
        CheckpointError, ConfigError, BuildError: as `load_engine`.
    """
    from sgm_core.cache.parts import keep_in
    from sgm_core.config.api import build_engine, config_from

    provenance = checkpoint.provenance
    if provenance is None:
        raise CheckpointError(
            f"{checkpoint.path}: holds weights but no config; build the engine from a config and "
            "load them with engine.load_weights(path)"
        )
    missing = provenance.missing()
    if missing:
        raise CheckpointError("\n".join([f"{checkpoint.path} needs components that are not installed:", *missing]))
    for line in (*provenance.changed(), *provenance.missing_plugins()):
        warnings.warn(f"{checkpoint.path}: {line}", stacklevel=2)
    model = {key: value for key, value in provenance.config["model"].items() if key != "init_from"}
    with restoring():
        engine: Any = build_engine(config_from({**provenance.config, "model": model}, str(checkpoint.path)))
    keep_in(engine, None)  # a cache is for training
    load_into(engine, checkpoint)
    if provenance.latent_shape is not None:
        engine.latent_shape = tuple(provenance.latent_shape)
    return cast("DiffusionEngine", engine)


def find_checkpoint(path: Path) -> Path:
    """The newest checkpoint of a run folder; a file as it is.

    Raises:
        CheckpointError: a folder without a checkpoint.
    """
    if not path.is_dir():
        return path
    for candidate in (path / "checkpoints" / "last.ckpt", path / "last.ckpt", path / "model.safetensors"):
        if candidate.is_file():
            return candidate
    raise CheckpointError(f"{path}: no checkpoint here (looked for checkpoints/last.ckpt and model.safetensors)")


def read_provenance(path: Path) -> Provenance | None:
    """How the engine of a `.ckpt` was built; none for one that Python code gave objects.

    Raises:
        CheckpointError: it can not be read.
    """
    return read_checkpoint(path).provenance


def refuse_url(path: Path | str) -> None:
    """Checkpoints are read from disk.

    Raises:
        CheckpointError: this is an address in a network.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):  # a path that was an address has lost a slash
        raise CheckpointError(
            f"{path}: nothing is read from a network, where it could be another file tomorrow; download it, check its "
            "sum, and give the file"
        )


def read_step(path: Path) -> int:
    """The optimizer step at which a `.ckpt` was written.

    Raises:
        CheckpointError: it can not be read.
    """
    try:
        return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    except Exception as error:  # as in read_checkpoint
        raise CheckpointError(f"{path}: not a checkpoint to go on from: {error}") from error
