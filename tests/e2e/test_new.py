"""A package that `sgm new` wrote, in a fresh venv: installed, tested and trained with, no file edited."""

import json

import pytest

pytestmark = pytest.mark.slow


def test_a_new_embedder_is_installed_passes_its_tests_and_trains(fresh, tmp_path):
    def run(*command: str, cwd=tmp_path) -> str:
        done = fresh.run(*command, cwd=cwd)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    assert "sgm-number" in run("sgm", "new", "embedders", "number")
    package = tmp_path / "sgm-number"
    fresh.pip_install("-e", ".[test]", cwd=package)
    try:
        assert "4 passed" in run("pytest", cwd=package)
        assert "sgm-number 0.1.0" in run("sgm", "show", "embedders/number")
        (found,) = json.loads(run("sgm", "doctor", "sgm-number", "--json"))[0]["components"]
        assert (found["loads"], found["problems"], found["output"]) == (True, [], "")
        override = "model.conditioner.embedders[0].embedder={use: number, embed_dim: 128}"
        assert override in (package / "README.md").read_text()
        run("sgm", "train", "digits", override, "trainer.max_steps=2", "--name", "number")
    finally:
        run("pip", "uninstall", "--yes", "--quiet", "sgm-number")  # the environment is the session's
    run_folder = tmp_path / "runs" / "number"
    lock = json.loads((run_folder / "lock.json").read_text())
    assert ("sgm-number:number", "0.1.0") in {(row["qualified"], row["version"]) for row in lock}
    assert (run_folder / "model.safetensors").is_file()
