"""What the README and docs/plugins.md show is run as it stands there."""

import re
import shlex
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml
from support.places import ROOT

import sgm_core as sgm
from sgm_core.cli.app import main


def blocks(document: str, language: str) -> list[str]:
    """The fenced blocks of a language, in order, without the indentation of the list they stand in."""
    text = (ROOT / document).read_text(encoding="utf-8")
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", text, flags=re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(body) for _, body in found]


def section(document: str, title: str) -> str:
    """What stands below a heading of the second level."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_the_readme_config_passes_the_check_with_the_readme_plugin(tmp_path, register):
    plugin = {"__name__": "readme"}
    exec(blocks("README.md", "python")[0], plugin)
    register("embedders", "parity")(plugin["ParityEmbedder"])
    config = tmp_path / "parity.yaml"
    config.write_text(blocks("README.md", "yaml")[0])
    assert {"unet", "parity", "digits"} <= {entry.name for entry in sgm.check(sgm.load_config(config))}
    sgm.build_engine(sgm.load_config(config))


def test_the_readme_typo_is_answered_as_the_readme_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = blocks("README.md", "yaml")[0].replace("use: parity", "use: class").replace("scale:", "scal:")
    Path("parity.yaml").write_text(text)
    shown = re.search(r"^\$ sgm check parity.yaml\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.M | re.S)
    assert main(["check", "parity.yaml"]) == 1
    assert capsys.readouterr().err == shown[1]


def test_the_readme_python_runs():
    names: dict = {}
    exec(blocks("README.md", "python")[1], names)
    assert names["images"].shape == (3, 1, 8, 8)


def test_the_readme_commands_train_and_sample(tmp_path, monkeypatch):
    """In a few steps; the first line installs, which the tests of a fresh environment do."""
    monkeypatch.chdir(tmp_path)
    install, *commands = blocks("README.md", "sh")[0].splitlines()
    assert "pip install -c constraints.txt -e ." in install
    train, sample = (shlex.split(command, comments=True) for command in commands)
    assert main([*train[1:], "trainer.max_steps=2", "trainer.callbacks=[]"]) == 0
    assert main([*sample[1:], "--steps", "2"]) == 0
    assert {file.name for file in Path("runs/digits/samples").glob("seed-*.png")} == {
        f"seed-{seed:06}.png" for seed in range(8)
    }
    assert Path("runs/digits/report.html").is_file()


# --- docs/plugins.md -----------------------------------------------------------------------------------------------


def code(title: str, language: str) -> str:
    """The first block of a language in a section of docs/plugins.md."""
    return re.search(rf"```{language}\n(.*?)```", section("docs/plugins.md", title), flags=re.DOTALL)[1]


@pytest.fixture
def parts(register, tmp_path, monkeypatch) -> Iterator[dict]:
    """The classes that the page defines, in a module, and registered under the names that its configs use."""
    titles = ("Several entries and masks", "An output of your own", "A custom conditioner")
    (tmp_path / "of_the_page.py").write_text("\n".join(code(title, "python") for title in titles))
    monkeypatch.syspath_prepend(tmp_path)
    module = import_module("of_the_page")
    register("embedders", "words")(module.WordsEmbedder)
    register("networks", "styled")(module.StyledNetwork)
    register("conditioners", "summed")(module.SummedConditioner)
    yield vars(module)
    del sys.modules["of_the_page"]


def test_the_tests_of_the_page_pass(parts):
    exec(code("Tests", "python"), parts)
    tests = [test for name, test in parts.items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()


def test_padding_changes_no_mean_of_words(parts):
    embedder = parts["WordsEmbedder"](n_words=10, width=4)
    tokens, mean = embedder(torch.tensor([[5, 7, 3]]), torch.tensor([[1, 1, 0]]))
    other, same = embedder(torch.tensor([[5, 7, 9]]), torch.tensor([[1, 1, 0]]))
    assert torch.equal(mean, same)
    assert torch.equal(tokens, other)
    assert torch.equal(mean, tokens[:, :2].mean(dim=1))


@pytest.mark.parametrize("title", ["An output of your own", "A custom conditioner"])
def test_the_configs_of_the_page_train(title, parts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("page.yaml").write_text(code(title, "yaml"))
    assert main(["train", "page.yaml", "trainer.max_steps=1", "trainer.callbacks=[]", "--name", "page"]) == 0
    engine = sgm.load_engine("runs/page")
    assert engine.generate({"cls": [3, 1]}, shape=(1, 8, 8), num_steps=2).isfinite().all()


def test_a_frozen_embedder_of_the_custom_conditioner_does_not_train(parts, tmp_path):
    (tmp_path / "page.yaml").write_text(code("A custom conditioner", "yaml"))
    engine = sgm.build_engine(sgm.load_config(tmp_path / "page.yaml"))
    trained = {name for name in engine.trained_parameters() if name.startswith("conditioner.")}
    assert {name.split(".")[2] for name in trained} == {"0"}
    assert not engine.train().conditioner.embedders[1].training


def test_the_slots_of_the_page_are_slots(parts):
    (slot,) = yaml.safe_load(code("Several entries and masks", "yaml"))
    conditioner = sgm.build("conditioners", {"use": "general", "embedders": [slot]})
    assert conditioner.input_keys == ("words", "mask")


def entry_point(title: str, number: int = 0) -> dict[str, dict[str, str]]:
    """What a block of TOML in a section declares."""
    found = re.findall(r"```toml\n(.*?)```", section("docs/plugins.md", title), flags=re.DOTALL)[number]
    return tomllib.loads(found)["project"]["entry-points"]


def test_the_command_of_the_page_runs(make_distribution, capsys):
    make_distribution("sgm-count", entry_point("Commands"), {"sgm_count.py": code("Commands", "python")})
    assert main(["count", "digits"]) == 0
    engine = sgm.build_engine(sgm.load_config("digits"))
    assert int(capsys.readouterr().out) == sum(parameter.numel() for parameter in engine.parameters())
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "Count the parameters of a model." in capsys.readouterr().out


def test_the_section_of_the_page_is_checked_and_read(make_distribution):
    make_distribution(
        "sgm-alerts", entry_point("Config sections"), {"sgm_alerts.py": code("Config sections", "python")}
    )
    config = sgm.load_config("digits", overrides=["alerts.address=me"])
    assert config.build("alerts").address == "me"
    with pytest.raises(ValueError, match=r"alerts\.every_n_steps"):
        sgm.check(sgm.load_config("digits", overrides=["alerts.every_n_steps=0"]))


@pytest.mark.slow
def test_the_first_plugin_of_the_page_as_a_newcomer_would_make_it(fresh, tmp_path):
    tutorial = section("docs/plugins.md", "A first plugin, in ten minutes")
    fresh.pip_install("pytest", cwd=tmp_path)
    step = re.compile(r"^ *(?:\d+\. `(?P<file>[\w.]+)` .*?)?```(?P<language>\w+)\n(?P<body>.*?)^ *```", re.M | re.S)
    commands = []
    for found in step.finditer(tutorial):
        body = textwrap.dedent(found["body"])
        if found["language"] == "sh":
            commands += body.splitlines()
            continue
        assert found["file"], f"a block without a file name: {body}"
        (tmp_path / found["file"]).write_text(body)
    assert len(commands) == 5
    for command in [*commands, "pytest -q"]:
        words = re.findall(r'"[^"]*"|\S+', command)
        few_steps = ["trainer.max_steps=4"] if "train" in words else []
        done = fresh.run(*(word.strip('"') for word in words), *few_steps, cwd=tmp_path)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert (tmp_path / "runs" / "onehot" / "samples" / "grid.png").is_file()
