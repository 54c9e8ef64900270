"""Write a plugin package: a component of `sgm_core/templates` under other names, and what goes with it."""

from __future__ import annotations

import ast
import keyword
import os
import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from sgm_core.errors import SgmError
from sgm_core.kinds import KINDS
from sgm_core.registry import API, BUILTIN, check_kind, index, normalize

TEMPLATES = Path(__file__).with_name("templates")

USES = {
    "engines": "model={use: NAME, shape: [1, 8, 8]}",
    "networks": "model.network={use: NAME, channels: 1}",
    "denoisers": "model.denoiser={use: NAME}",
    "scalings": "model.denoiser.scaling={use: NAME}",
    "discretizations": "model.sampler.discretization=NAME",
    "samplers": "model.sampler={use: NAME, num_steps: 50, discretization: edm}",
    "guiders": "model.sampler.guider={use: NAME}",
    "losses": "model.loss_fn={use: NAME, sigma_sampler: edm}",
    "weightings": "model.loss_fn.weighting={use: NAME}",
    "sigma_samplers": "model.loss_fn.sigma_sampler=NAME",
    "conditioners": "model.conditioner={use: NAME, key: cls, dim: 128}",
    "embedders": "model.conditioner.embedders[0].embedder={use: NAME, embed_dim: 128}",
    "first_stages": "model.first_stage=NAME",
    "adapters": "model.adapter={use: NAME}",
    "averages": "model.ema={use: NAME}",
    "optimizers": "model.optimizer={use: NAME, lr: 1.0e-4}",
    "lr_schedules": "model.lr_schedule=NAME",
    "datamodules": "data={use: NAME}",
    "callbacks": "trainer.callbacks=[NAME]",
    "loggers": "trainer.logger=NAME",
}
"""How the config `digits` uses a component of each kind, as an override. (It has no part of an autoencoder.)"""


class Package(NamedTuple):
    """The names of a package to be."""

    kind: str
    name: str
    distribution: str

    @property
    def module(self) -> str:
        """The importable package."""
        return normalize(self.distribution).replace("-", "_")

    @property
    def attribute(self) -> str:
        """The class, `one_hot` -> `OneHotEmbedder`, or the function of an lr_schedule."""
        if self.kind == "lr_schedules":
            return self.name
        camel, suffix = camel_case(self.name), class_suffix(self.kind)
        return camel if camel.endswith(suffix) and camel != suffix else camel + suffix


def camel_case(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def class_suffix(kind: str) -> str:
    """What the classes of a kind are called, `embedders` -> `Embedder`; as their role is."""
    return KINDS[kind].role.rpartition(":")[2].removesuffix("Factory")


def plan(kind: str, name: str, distribution: str | None = None) -> Package:
    """Check the names.

    Raises:
        SgmError: not a kind; a name that is none, or that is taken.
    """
    check_kind(kind)
    noun = KINDS[kind].noun
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or keyword.iskeyword(name):
        raise SgmError(f"'{name}' is not a component name: use snake_case and no word of Python, e.g. 'my_{noun}'")
    if any(entry.name == name and entry.distribution == BUILTIN for entry in index.entries(kind)):
        raise SgmError(f"the {noun} '{name}' is built in, and its name cannot be taken: choose another one")
    package = Package(kind, name, distribution or f"sgm-{name.replace('_', '-')}")
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", package.distribution):
        raise SgmError(f"--package {package.distribution}: not the name of a distribution, e.g. 'sgm-{name}'")
    module = package.module
    if not module.isidentifier() or keyword.iskeyword(module):
        raise SgmError(f"--package {package.distribution}: Python cannot import a package '{module}'")
    if module in sys.stdlib_module_names or find_spec(module) is not None:
        raise SgmError(f"there is a Python package '{module}' already: choose another name with --package")
    if package.attribute in identifiers(kind):
        raise SgmError(
            f"the {noun} '{name}' would be {package.attribute} in Python, which its module uses: choose another"
        )
    return package


def identifiers(kind: str) -> set[str]:
    """The names that the templates of a kind use, and that the component cannot have."""
    found: set[str] = set()
    for template in (f"{kind}.py", f"test_{kind}.py"):
        for node in ast.walk(ast.parse((TEMPLATES / template).read_text(encoding="utf-8"))):
            match node:
                case ast.Name(id=name) | ast.arg(arg=name) | ast.ClassDef(name=name):
                    found.add(name)
                case ast.alias(name=name, asname=alias):
                    found.add(alias or name)
    return found


def write(package: Package, out: Path) -> Path:
    """Write the package into a new folder of `out`, whole or not at all.

    Raises:
        SgmError: the folder exists.
        OSError: it cannot be written.
    """
    folder = out / package.distribution
    if os.path.lexists(folder):
        raise SgmError(f"{folder} exists already: choose another place with --out, or another name with --package")
    out.mkdir(parents=True, exist_ok=True)
    temporary = out / f".{package.distribution}.{os.getpid()}"
    try:
        for file, text in files(package).items():
            (temporary / file).parent.mkdir(parents=True, exist_ok=True)
            (temporary / file).write_text(text, encoding="utf-8")
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def files(package: Package) -> dict[str, str]:
    """The package's files by path."""
    kind, name, module = package.kind, package.name, package.module
    return {
        "pyproject.toml": filled("pyproject.toml.jinja", package),
        "README.md": filled("README.md.jinja", package),
        ".gitignore": filled("gitignore.jinja", package),
        f"{module}/__init__.py": f'"""Components for sgm: the {KINDS[kind].noun} `{name}`."""\n',
        f"{module}/py.typed": "",
        f"{module}/{name}.py": renamed(f"{kind}.py", package),
        f"tests/test_{name}.py": renamed(f"test_{kind}.py", package),
    }


def renamed(template: str, package: Package) -> str:
    """A template under the package's names."""
    text = (TEMPLATES / template).read_text(encoding="utf-8")
    names = {
        f"sgm_plugins.tools.new.templates.{package.kind}": f"{package.module}.{package.name}",
        "sgm-example": package.distribution,
        f"Example{class_suffix(package.kind)}": package.attribute,
        "example": package.name,
    }
    return re.sub(rf"\b({'|'.join(map(re.escape, names))})\b", lambda found: names[found[1]], text)


def filled(template: str, package: Package) -> str:
    """A text of the package with its names filled in."""
    from jinja2 import Environment, StrictUndefined

    # not HTML: nothing is escaped
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    return environment.from_string((TEMPLATES / template).read_text(encoding="utf-8")).render(
        api=API,
        kind=package.kind,
        name=package.name,
        noun=KINDS[package.kind].noun,
        distribution=package.distribution,
        module=package.module,
        attribute=package.attribute,
        summary=KINDS[package.kind].summary,
        override=USES.get(package.kind, "").replace("NAME", package.name),
    )
