"""Pretrained models: a local folder, or the id of a repository on the Hugging Face hub. Safetensors only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sgm_core.files import parse_json, read_text

T = TypeVar("T")


def local_config(model: str | Path) -> dict[str, Any] | None:
    """What the `config.json` of a local folder says; None where there is none. Reads one small file."""
    try:
        found = read_json(Path(model) / "config.json")
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    return parse_json(read_text(path), path)


def config_of(model: str | Path, known: Mapping[str, dict[str, Any]], local_files_only: bool) -> dict[str, Any]:
    """The configuration of a model: of its folder, of the table of known ones, or of the hub.

    Raises:
        ValueError: there is no such model.
    """
    found = local_config(model) or known.get(str(model))
    if found is None:
        found = read_json(find_file(model, ("config.json",), local_files_only))
    return found


def find_file(model: str | Path, names: Sequence[str], local_files_only: bool) -> Path:
    """The first of these files that a model has.

    Raises:
        ValueError: it has none of them, or there is no such model.
    """
    folder = Path(model)
    if folder.is_dir():
        for name in names:
            if (folder / name).is_file():
                return folder / name
        raise ValueError(f"{folder} has no {' or '.join(names)}")
    check_id(model)
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
    if isinstance(model, Path) or text.startswith((".", "/", "~")) or text.count("/") > 1 or "\\" in text:
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
    if not Path(model).is_dir():
        check_id(model)

    def load() -> Any:
        verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()  # a table of what other parts of the model are in the file
        logging.disable_progress_bar()
        try:
            found, report = auto.from_pretrained(
                str(model), use_safetensors=True, local_files_only=local_files_only, output_loading_info=True
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


def from_hub(model: str | Path, local_files_only: bool, load: Callable[[], T]) -> T:
    """load(), whose many errors become one ValueError that says what to do."""
    try:
        return load()
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if Path(model).is_dir():
            raise ValueError(f"{model} cannot be loaded: {reason}") from error
        hint = (
            "local_files_only is true: download it first, `hf download MODEL`, or give a folder"
            if local_files_only
            else "check the id and the connection, or give a local folder"
        )
        raise ValueError(
            f"{model} cannot be downloaded from the hub ({reason}). {hint.replace('MODEL', str(model))}"
        ) from error
