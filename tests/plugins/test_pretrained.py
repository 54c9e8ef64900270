"""Models of strangers: no code of theirs runs, nobody is asked, and only `hf:NAME` opens a connection."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")
from support.tiny_transformers import write_bert, write_clip

from sgm_plugins.pretrained import check_folder, local_config, source_of

WATCHED = """
import json, sys, time
events = []
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "builtins.input", "os.exec", "os.system", "subprocess.Popen"):
        events.append(event)
time.sleep = lambda seconds: None
from contextlib import nullcontext
from sgm_core.checkpoints.restoring import restoring
from sgm_core.config.api import build
import torch, transformers
sys.addaudithook(watch)
for embedder, model, restored in json.loads(sys.argv[1]):
    events.clear()
    try:
        with restoring() if restored else nullcontext():
            built = build("embedders", {"use": embedder, "model": model, "max_length": 8})
        built(["a"])
        message = "built"
    except ValueError as error:
        message = str(error)
    print("told", json.dumps([message, sorted(set(events))]))
"""


def told(*cases: tuple[str, str, bool]) -> list[list]:
    """For each embedder, model, and whether it is restored: the message, and what was tried on the way. On the standard
    input there is a yes to every question."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, json.dumps(cases)], input="y\n" * 20, capture_output=True, text=True,
        env={key: value for key, value in os.environ.items() if not key.startswith("HF_")} | {"HF_HOME": "nowhere"},
    )  # fmt: skip
    found = [json.loads(line.removeprefix("told ")) for line in done.stdout.splitlines() if line.startswith("told ")]
    assert len(found) == len(cases), done.stderr
    return found


@pytest.fixture
def bert(tmp_path) -> Path:
    return write_bert(tmp_path / "bert")


def changed(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_only_hf_opens_a_connection_and_nothing_asks_a_question(bert, tmp_path):
    good = write_bert(tmp_path / "good")
    (bert / "evil.py").write_text(f"open({str(tmp_path / 'CANARY')!r}, 'w')\nclass C: pass\n")
    code = {"AutoConfig": "evil.C", "AutoModel": "evil.C", "AutoTokenizer": ["evil.C", "evil.C"]}
    changed(bert / "tokenizer_config.json", auto_map=code, tokenizer_class="EvilTokenizer")
    changed(bert / "config.json", auto_map=code, model_type="evilbert")
    embedders = ("hf_text", "t5", "clip_text", "open_clip_text")
    names = [(embedder, "somebody/model", restored) for embedder in embedders for restored in (False, True)]
    first, refused, asked, restored, *bare = told(
        ("hf_text", str(good), False),
        ("hf_text", str(bert), False),
        ("hf_text", "hf:somebody/model", False),
        ("hf_text", "hf:somebody/model", True),
        *names,
    )
    assert first == ["built", []]
    assert f"{bert} cannot be loaded: " in refused[0]
    assert refused[1] == []
    assert not (tmp_path / "CANARY").exists()
    assert "Check the id and the connection" in asked[0]
    assert {"socket.getaddrinfo", "socket.connect"} & set(asked[1])
    for message, events in (restored, *bare):
        assert "The hub was not asked: download it first" in message
        assert "`hf:somebody/model`" in message
        assert events == []


def test_an_adapter_does_not_bring_another_model(bert):
    (bert / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "somebody/model"}))
    with pytest.raises(ValueError, match="holds an adapter of another model"):
        check_folder(bert)


@pytest.mark.parametrize("name", ["../mine.safetensors", "/etc/passwd", 5])
def test_shards_are_in_the_folder(bert, name):
    (bert / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ValueError, match="is not the name of a file in this folder"):
        check_folder(bert)


@pytest.mark.skipif(os.name != "posix", reason="links")
def test_links_out_of_a_folder_are_not_followed(bert, tmp_path):
    (tmp_path / "mine.json").write_text((bert / "config.json").read_text())
    (bert / "config.json").unlink()
    (bert / "config.json").symlink_to(tmp_path / "mine.json")
    with pytest.raises(ValueError, match="is not the name of a file in this folder"):
        check_folder(bert)
    assert local_config(bert) is None


def test_hf_is_a_prefix_of_texts_and_asks_only_where_it_may():
    assert source_of("hf:a/b", False) == ("a/b", False)
    assert source_of("hf:a/b", True) == ("a/b", True)
    assert source_of("a/b", False) == ("a/b", True)


def test_a_known_model_has_its_width_with_and_without_hf(tmp_path):
    from sgm_plugins.openclip.size import KNOWN
    from sgm_plugins.pretrained import known_config

    name = next(iter(KNOWN))
    assert known_config(f"hf:{name}", KNOWN) == known_config(name, KNOWN) == KNOWN[name]
    assert known_config(write_clip(tmp_path / "clip"), KNOWN)["model_type"] == "clip"
