"""Pretrained models: a local folder, or a repository of the Hugging Face hub. Safetensors only, and no code of others.

`model: NAME` is looked up in the local cache of the hub. Only `model: hf:NAME` may download, and only while a config of
the user is built: the config in a checkpoint opens no connection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sgm_core.files import inside
from sgm_plugins.reading import links_to, read_object

T = TypeVar("T")

HUB = "hf:"
"""Before the name of a model that may be downloaded."""


def source_of(model: str | Path, local_files_only: bool) -> tuple[str | Path, bool]:
    """The folder or name that a config gives, without `hf:`, and whether the hub must not be asked for it."""
    from sgm_core.checkpoints.restoring import takes_weights

    if isinstance(model, str) and model.startswith(HUB):
        return model.removeprefix(HUB), local_files_only or not takes_weights()
    return model, True


def known_config(model: str | Path, known: Mapping[str, dict[str, Any]]) -> dict[str, Any] | None:
    """The configuration of a local folder, or of a model in a table of known ones; None for any other."""
    return local_config(model) or known.get(str(model).removeprefix(HUB))


def local_config(model: str | Path) -> dict[str, Any] | None:
    """What the `config.json` of a local folder says; None where there is none. Reads one small file."""
    folder = Path(model)
    try:
        return read_object(inside(folder, "config.json", links_to(folder))) if folder.is_dir() else None
    except (OSError, ValueError):
        return None


def config_of(model: str | Path, known: Mapping[str, dict[str, Any]], local_files_only: bool) -> dict[str, Any]:
    """The configuration of a model: of its folder, of the table of known ones, or of the hub.

    Raises:
        ValueError: there is no such model.
    """
    return known_config(model, known) or read_object(find_file(model, ("config.json",), local_files_only))


def find_file(model: str | Path, names: Sequence[str], local_files_only: bool) -> Path:
    """The first of these files that a model has.

    Raises:
        ValueError: it has none of them, or there is no such model.
    """
    model, local_files_only = source_of(model, local_files_only)
    folder = Path(model)
    if folder.is_dir():
        for name in names:
            if (folder / name).is_file():
                return inside(folder, name, links_to(folder))
        raise ValueError(f"{folder} has no {' or '.join(names)}")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    def fetch() -> Path:
        for name in names:
            try:
                return Path(hf_hub_download(str(model), name, local_files_only=local_files_only))
            except EntryNotFoundError as error:  # also what is not in the cache, where nothing else may be asked
                missing = error
        raise missing

    return from_hub(model, local_files_only, fetch)


def check_id(model: str | Path) -> None:
    """Raise ValueError for what can only be a path, and is no folder: the hub would be asked for it in vain."""
    text = str(model)
    if isinstance(model, Path) or not text or text.startswith((".", "/", "~")) or text.count("/") > 1 or "\\" in text:
        raise ValueError(
            f"{text}: no such folder. Give a folder with config.json, *.safetensors and the tokenizer's files, or the "
            "id of a model on the hub, such as openai/clip-vit-large-patch14"
        )


def load_pretrained(auto: Any, model: str | Path, local_files_only: bool) -> Any:
    """A model of transformers with its weights, all of which must be there, from safetensors.

    Raises:
        ValueError: no such model, it cannot be loaded, or its file lacks weights.
    """
    from transformers import utils

    logging: Any = utils.logging
    model, local_files_only = source_of(model, local_files_only)

    def load() -> Any:
        verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()  # a table of what other parts of the model are in the file
        logging.disable_progress_bar()
        try:
            found, report = auto.from_pretrained(
                str(model), use_safetensors=True, output_loading_info=True, **guarded(local_files_only)
            )
        finally:
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()
        # a pooler is a head that no embedder uses
        missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler.") and "_ids" not in key)
        if missing:
            raise ValueError(f"its file has no {missing[0]}" + (f" and {len(missing) - 1} more" if missing[1:] else ""))
        return found

    return from_hub(model, local_files_only, load)


def guarded(local_files_only: bool) -> dict[str, Any]:
    """Arguments of every `from_pretrained`: no code of the repository is run, and nobody is asked whether it may."""
    return {"trust_remote_code": False, "local_files_only": local_files_only}


def check_folder(folder: Path) -> None:
    """Raise ValueError for a local model that leads elsewhere: transformers follows links, names of shards, and the
    base model of an adapter."""
    root = links_to(folder)
    for file in folder.iterdir():
        inside(folder, file.name, root)
        if file.name == "adapter_config.json":
            raise ValueError(f"{folder} holds an adapter of another model; give the folder of a whole model")
        if file.name.endswith(".index.json"):
            shards = read_object(file).get("weight_map")
            for name in shards.values() if isinstance(shards, dict) else ():
                inside(folder, name, root)


@contextmanager
def offline(on: bool) -> Iterator[None]:
    """Inside, the hub's library opens no connection: its own switch, which it else reads from the environment once."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = on or before
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def from_hub(model: str | Path, local_files_only: bool, load: Callable[[], T]) -> T:
    """load(), whose many errors become one ValueError that says what to do. Nothing is asked for a local folder."""
    folder = Path(model)
    if folder.is_dir():
        check_folder(folder)
    else:
        check_id(model)
    try:
        with offline(local_files_only):
            return load()
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if Path(model).is_dir():
            raise ValueError(f"{model} cannot be loaded: {reason}") from error
        if local_files_only:
            raise ValueError(
                f"{model} is neither a folder nor in the local cache of the hub ({reason}). The hub was not asked: "
                f"download it first, `hf download {model}`, or write `hf:{model}` in your config"
            ) from error
        raise ValueError(
            f"{model} cannot be downloaded from the hub ({reason}). Check the id and the connection, or give a folder"
        ) from error
