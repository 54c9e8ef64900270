"""What README and CONTRIBUTING show is run as it stands there."""

import re
import textwrap
from pathlib import Path

import pytest
from support.places import ROOT

import sgm_core as sgm


def blocks(document: str, language: str) -> list[str]:
    """The fenced blocks of a language, in order, without the indentation of the list they stand in."""
    text = (ROOT / document).read_text(encoding="utf-8")
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", text, flags=re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(body) for _, body in found]


def test_the_readme_config_passes_the_check_with_the_readme_plugin(tmp_path, register):
    plugin = {"__name__": "readme"}
    exec(blocks("README.md", "python")[0], plugin)
    register("embedders", "parity")(plugin["ParityEmbedder"])
    config = tmp_path / "parity.yaml"
    config.write_text(blocks("README.md", "yaml")[0])
    assert {"unet", "parity", "digits"} <= {entry.name for entry in sgm.check(sgm.load_config(config))}
    sgm.build_engine(sgm.load_config(config))


def test_the_readme_typo_is_answered_as_the_readme_says(tmp_path, monkeypatch, capsys):
    from sgm_core.cli.app import main

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


def test_the_commands_of_the_readme_are_those_that_exist():
    from sgm_core.cli.app import summaries

    listed = set(re.findall(r"^\| `sgm (\w+)", (ROOT / "README.md").read_text(), flags=re.MULTILINE))
    assert listed == set(summaries())


@pytest.mark.slow
def test_the_first_plugin_of_contributing_as_a_newcomer_would_make_it(fresh, tmp_path):
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    tutorial = text[: text.index("## Kinds")]
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
        done = fresh.run(*(word.strip('"') for word in words), cwd=tmp_path)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert (tmp_path / "runs" / "onehot" / "samples" / "grid.png").is_file()
