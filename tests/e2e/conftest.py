"""A fresh virtual environment with the wheel of this checkout and a third party's package, as a user would make it."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from support.places import ROOT


class Venv:
    """A virtual environment outside the checkout."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        venv.create(folder, with_pip=True)
        self.bin = folder / ("Scripts" if os.name == "nt" else "bin")

    def run(self, *command: str, cwd: Path, timeout: float = 900, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command of this environment; PYTHONPATH and the like of the caller do not reach it."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "SGM_", "VIRTUAL_ENV"))}
        clean["PATH"] = f"{self.bin}{os.pathsep}{clean['PATH']}"
        return subprocess.run(
            [str(self.bin / command[0]), *command[1:]],
            cwd=cwd,
            env=clean | env,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def pip_install(self, *arguments: str, cwd: Path) -> None:
        """Modules are compiled when they are first imported: few of torch's ever are."""
        options = ("--quiet", "--disable-pip-version-check", "--no-compile", "-c", str(ROOT / "constraints.txt"))
        done = self.run("pip", "install", *options, *arguments, cwd=cwd)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built from its sdist as a release would be."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(out), str(ROOT)], check=True, capture_output=True)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="session")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Venv:
    """A fresh venv in which sgm-core and the plugin are installed by pip, neither of them editable."""
    folder = tmp_path_factory.mktemp("fresh")
    plugin = shutil.copytree(ROOT / "tests" / "e2e" / "sgm-parity", folder / "sgm-parity")  # pip builds in the folder
    environment = Venv(folder / "venv")
    environment.pip_install(str(wheel), str(plugin), cwd=wheel.parent)
    return environment
