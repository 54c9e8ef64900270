"""Checkpoints: read safely, loaded strictly with reasons, and able to rebuild the engine that wrote them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from sgm_core.checkpoints.fit import LoadReport, compare
from sgm_core.checkpoints.layouts import AVERAGE, has_average
from sgm_core.errors import SgmError
from sgm_core.files import replacing
from sgm_core.registry import BUILTIN, LOCAL, Entry, RegistryError, index
from sgm_core.shapes import only_measured

if TYPE_CHECKING:
    from sgm_core.config.api import Config
    from sgm_core.engine import DiffusionEngine

PROVENANCE_KEY = "sgm"
"""Where a checkpoint holds its `Provenance`: a key of a `.ckpt`, an entry of a `.safetensors` file's metadata."""


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


def read_weights(path: Path, keys: Iterable[str]) -> dict[str, Tensor]:
    """Some weights of a file that was read before, mapped anew and for as long as they are held.

    Each tensor of a `.safetensors` file that is asked for takes some pages of memory before any of its values is read.
    """
    if path.suffix != ".safetensors":
        weights = read_checkpoint(path).weights
        return {key: weights[key] for key in keys}
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in keys}


def _read_safetensors(path: Path) -> Checkpoint:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        text = (file.metadata() or {}).get(PROVENANCE_KEY)
    return Checkpoint(path, weights, Provenance.from_json(text) if text else None)


def _read_torch(path: Path) -> Checkpoint:
    data, weights = open_torch(path)
    provenance = data.get(PROVENANCE_KEY)
    return Checkpoint(path, weights, Provenance.from_dict(provenance) if provenance else None)


def open_torch(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a `.ckpt` holds, and of that the weights, mapped. Objects of Lightning's classes in it are left empty.

    Raises:
        CheckpointError: it holds no weights.
    """
    with torch.serialization.safe_globals([(_Empty, name) for name in _lightning_classes(path)]):
        try:
            data = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap can only be used" not in str(error):
                raise
            data = torch.load(path, map_location="cpu", weights_only=True)  # as files were before torch 1.6
    weights = data.get("state_dict", data) if isinstance(data, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointError(f"{path}: holds no state_dict of tensors")
    return data, weights


class _Empty:
    """Stands for an object that is no plain data, such as the callbacks of a training."""

    def __setstate__(self, state: Any) -> None:
        return None


def _lightning_classes(path: Path) -> list[str]:
    """The classes of Lightning that a file names; any other would be refused."""
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # of a broken file, whose reading says what is wrong
        return []
    return [name for name in named if name.startswith(("pytorch_lightning.", "lightning."))]


def save_weights(engine: nn.Module | Mapping[str, Tensor], path: Path, provenance: Provenance | None) -> None:
    """Export the state dict as one `.safetensors` file that `load_engine` reads.

    The averages are those keys that begin with `model_ema.`: `model_ema.shadow.NAME` is the average of the raw NAME.

    Args:
        engine: the engine, or weights by its keys.
        path: of the file.
        provenance: its config, goes into the metadata.

    Raises:
        OSError: it can not be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    weights: dict[str, Tensor] = {}
    storages: set[int] = set()
    for key, value in (engine.state_dict() if isinstance(engine, nn.Module) else engine).items():
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


def load_into(engine: Any, checkpoint: Checkpoint) -> LoadReport:
    """Load all weights or none; which ones, says `sgm_core.checkpoints.match.match`.

    Raises:
        CheckpointError: keys or shapes differ; the model is unchanged.
    """
    from sgm_core.checkpoints.match import match

    names, report = match(engine, checkpoint.path, checkpoint.weights)
    if not report.fits:
        raise CheckpointError(str(report))
    engine.load_state_dict({name: checkpoint.weights[key] for name, key in names.items()}, strict=False)
    average = getattr(engine, "model_ema", None)  # any LightningModule may be an engine
    if average is not None and not has_average(names):
        average.track(getattr(engine, "averaged_parameters", engine.trained_parameters)())
    return report


_restoring: ContextVar[bool] = ContextVar("restoring", default=False)


@contextmanager
def restoring() -> Iterator[None]:
    """Inside, an engine is built whose weights come from a checkpoint: parts and engines read no other file.

    So a checkpoint is all that is needed, whatever became of the files that the training started from.
    """
    token = _restoring.set(True)
    try:
        yield
    finally:
        _restoring.reset(token)


def takes_weights() -> bool:
    """Whether what is built takes weights from the files that its config names: not if it is restored, or measured."""
    return not (_restoring.get() or only_measured())


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
    if not takes_weights():
        return
    refuse_url(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such run or checkpoint to take the weights from; train it first")
    from sgm_core.checkpoints.manifest import to_load

    checkpoint = read_checkpoint(to_load(path, verify=True))
    weights = checkpoint.weights
    found: dict[str, Tensor] = {}
    for start in (prefix, f"{AVERAGE}shadow.{prefix}"):  # the average, where there is one, comes last
        found |= {key.removeprefix(start): value for key, value in weights.items() if key.startswith(start)}
    if not found:
        found = {key: value for key, value in weights.items() if not key.startswith(AVERAGE)}
    found = {key: value for key, value in found.items() if not key.startswith(ignore)}
    report = compare(checkpoint.path, part.state_dict(), found)
    if not report.fits:
        raise CheckpointError(str(report))
    part.load_state_dict(found)


def load_engine(
    path: str | Path,
    config: Config | Mapping[str, Any] | str | Path | None = None,
    *,
    dtype: torch.dtype | None = None,
    first_stage_dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    take_average: bool = True,
    verify: bool | None = None,
) -> DiffusionEngine:
    """The engine of a run folder, a `.ckpt` or a `.safetensors` file, ours or of a public model: built, loaded, in eval
    mode. Beside the weights themselves it takes next to no memory. Of a run folder it is the newest checkpoint that is
    whole, with a warning for each that is not.

    Args:
        path: the folder or file.
        config: of the model, or its name. None: that which the file holds, else that of the public model which it is by
            its keys.
        dtype: of the weights; None: float32, as they are built. A float32 table of noise levels stays one.
        first_stage_dtype: of first stages; None: `dtype`, but float32 where the config has `first_stage_autocast:
            false`, since such a first stage overflows in half precision.
        device: where to.
        take_average: a model whose config has no average takes averaged weights (EMA) where the file has them.
        verify: whether the content of a checkpoint is compared with the sum in its manifest, for which all of it is
            read. None does so up to 2 GiB; the size is always compared.

    Raises:
        CheckpointError: no such file, one that is not what its manifest says, no config known, components that are
            not installed (with the command that installs them), weights that do not fit.
        ConfigError, BuildError: the config does not build with the installed versions.
    """
    from sgm_core.building.loading import choose_config, load
    from sgm_core.checkpoints.manifest import to_load

    refuse_url(path)
    checkpoint = read_checkpoint(to_load(Path(path), verify))
    engine, _ = load(
        checkpoint,
        choose_config(checkpoint, config),
        dtype=dtype,
        first_stage_dtype=first_stage_dtype,
        device=device,
        take_average=take_average,
    )
    if config is None and checkpoint.provenance is not None and checkpoint.provenance.latent_shape is not None:
        engine.latent_shape = tuple(checkpoint.provenance.latent_shape)
    return cast("DiffusionEngine", engine)


def rebuilt(checkpoint: Checkpoint) -> DiffusionEngine:
    """The engine of a checkpoint, with weights of its own, in training mode. It caches nothing.

    Raises:
        CheckpointError, ConfigError, BuildError: as `load_engine`.
    """
    from sgm_core.building.loading import built, choose_config

    engine = built(choose_config(checkpoint, None))
    load_into(engine, checkpoint)
    if checkpoint.provenance is not None and checkpoint.provenance.latent_shape is not None:
        engine.latent_shape = tuple(checkpoint.provenance.latent_shape)
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
