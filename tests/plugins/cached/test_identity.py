"""What an output is filed under: everything that could change it is part of it, and nothing else."""

import os
import sys

import pytest
import torch

import sgm_core as sgm
from sgm_core.cli.app import run_file
from sgm_core.errors import SgmError
from sgm_core.registry import index
from sgm_plugins.cached.identity import folder_name, identity

SOURCE = """\
    from pathlib import Path
    import torch
    from torch import nn

    class Words(nn.Module):
        def __init__(self, weights: str = "", folder: Path | None = None, inner: dict | None = None, n: int = 1):
            super().__init__()
            self.layer = nn.Linear(1, n)

        def forward(self, texts):
            return self.layer(torch.ones(len(texts), 1))
"""


@pytest.fixture
def words(make_distribution, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_distribution(
        "sgm-words", {"sgm.embedders": {"words": "words_plugin:Words"}}, {"words_plugin.py": SOURCE}
    )


def name_of(checkpoint=None, **arguments) -> str:
    slot = {"embedder": {"use": "words", **arguments}, "input_key": "txt", "cache": True}
    part = sgm.build("conditioners", {"use": "general", "embedders": [slot]}).slots[0].embedder.part
    return folder_name(identity(part.source, checkpoint or {}))


def test_it_is_stable_and_readable_and_told_without_an_import(words):
    assert name_of() == name_of()
    assert name_of().startswith("words-")
    assert "words_plugin" not in sys.modules


def test_the_folders_of_the_versions_before_are_found(words):
    """Recorded with the last version in which caching was a part of the core."""
    assert name_of(n=2, inner={"a": [1, 2.5]}, folder="nowhere") == "words-2984c27cfb8e8dba"


def test_arguments_count(words):
    assert (
        len({name_of(), name_of(n=2), name_of(weights=""), name_of(inner={"a": [1]}), name_of(inner={"a": [2]})}) == 5
    )


def test_the_version_of_the_distribution_counts(words, monkeypatch):
    before = name_of()
    metadata = words / "sgm_words-1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("Version: 1.0", "Version: 1.1"))
    metadata.parent.rename(words / "sgm_words-1.1.dist-info")
    index.refresh()
    assert name_of() != before


def test_the_source_of_the_component_counts(words):
    before = name_of()
    file = words / "words_plugin.py"
    file.write_text(file.read_text() + "# another line\n")
    assert name_of() != before


@pytest.mark.parametrize("argument", ["weights", "folder", "inner"])
def test_files_that_the_config_names_count_with_size_and_time(words, tmp_path, argument):
    file = tmp_path / "w" / "deep" / "model.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"1234")
    value = {"inner": {"files": [str(tmp_path / "w")]}, "weights": str(file), "folder": "w"}[argument]
    seen = {name_of(**{argument: value})}
    os.utime(file, ns=(1, 1))
    seen.add(name_of(**{argument: value}))
    file.write_bytes(b"12345")
    os.utime(file, ns=(1, 1))
    seen.add(name_of(**{argument: value}))
    assert len(seen) == 3
    assert name_of(**{argument: value}) in seen


def test_texts_that_are_no_files_do_no_harm(words):
    for text in ("a/b", "x" * 5000, "nul\0", "~nobody-knows/x"):
        name_of(weights=text)


def test_weights_from_a_checkpoint_count_by_content(words):
    def weights(value: float, name: str = "a", dtype=torch.float32):
        return {name: torch.tensor([value], dtype=dtype)}

    names = [name_of(), name_of(weights(1)), name_of(weights(2)), name_of(weights(1, "b"))]
    assert len({*names, name_of(weights(1, dtype=torch.bfloat16))}) == 5
    assert name_of(weights(1)) == names[1]


def test_the_source_of_a_component_that_was_registered_here_counts(register, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "local.py"
    names = set()
    for version in ("1", "2", "1"):
        file.write_text(
            "import sgm_core\nfrom torch import nn\n\n@sgm_core.register('embedders', 'words')\n"
            f"class Words(nn.Module):\n    def forward(self, texts):\n        return {version}\n"
        )
        run_file(str(file))
        names.add(name_of())
    assert len(names) == 2


def test_a_text_is_no_folder_and_a_folder_may_hold_anything(words, tmp_path, monkeypatch):
    home = tmp_path / "home"
    (home / "deep").mkdir(parents=True)
    (home / "deep" / "private").write_text("x")
    monkeypatch.setenv("HOME", str(home))

    def files(**arguments):
        slot = {"embedder": {"use": "words", **arguments}, "input_key": "txt", "cache": True}
        part = sgm.build("conditioners", {"use": "general", "embedders": [slot]}).slots[0].embedder.part
        return [file[0] for file in identity(part.source, {})["files"]]

    for text in ("~", str(home), "~/deep/private"):
        assert files(weights=text) == []
    assert files(weights=str(home / "deep" / "private")) == [str(home / "deep" / "private")]  # a file, plainly
    if os.name == "posix":
        (home / "dangling").symlink_to(home / "nowhere")
        os.mkfifo(home / "pipe")
    assert files(folder="~") == [str(home / "deep" / "private")]
    monkeypatch.setattr("sgm_plugins.cached.identity.MOST_FILES", 1)
    (home / "more").write_text("x")
    with pytest.raises(SgmError, match="more than 1 files"):
        files(folder=str(home))
