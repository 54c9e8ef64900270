"""Configs with dotted strings and code in every position import and run nothing."""

import copy
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from properties.trees import at_path, paths, write
from support.installed import usable_names

import sgm_core as sgm
from sgm_core.kinds import KINDS

SECRET = "hunter2"

HOSTILE = [
    "os.system", "os:system", "subprocess:run", "subprocess.Popen", "builtins.eval", "builtins:exec", "posix:system",
    "../x.py", "./throwaway_evil.py", "/etc/passwd", "throwaway_evil", "throwaway_evil:Evil", "throwaway_evil.Evil",
    "file://throwaway_evil.py", "sgm_plugins.samplers.euler_edm:EulerEDMSampler", "torch.load", "pickle:loads",
    "__import__('throwaway_evil')", "lambda: 1", "{{ 1 + 1 }}", "$(touch ran)", "`touch ran`", "%(os)s",
    "{0.__class__}", "__class__", "__init__", "__import__", "_target_", "target", "sgm-core:os.system", "local:os",
    "antigravity:x", "socket.socket", "python:throwaway_evil", "this", "a.b.c", "importlib.import_module",
]  # fmt: skip
REFERENCES = [
    "${oc.env:A_SECRET}", "${oc.env:A_SECRET,x}", "${python:throwaway_evil.Evil}", "${eval:1+1}", "${os.system:ls}",
    "${oc.create:x}", "${oc.decode:x}", "${hydra:runtime}", "${model.__class__}", "${vars.a.__init__.__globals__}",
    "${oc.select:model}", "${${oc.env:A_SECRET}}", "${..__class__}", "${now:%Y}", "\\${oc.env:A_SECRET}", "${", "${}",
]  # fmt: skip
TAGS = [
    "!!python/object/apply:os.system ['touch ran']", "!!python/name:os.system ''", "!!python/module:throwaway_evil ''",
    "!!python/object/new:subprocess.Popen [['touch', 'ran']]", "!!python/object:throwaway_evil.Evil {}", "!import os",
    "!<tag:yaml.org,2002:python/object/apply:os.system> [ls]", "!eval '1+1'", "!!python/tuple [1, 2]",
]  # fmt: skip

EVIL = "open('imported', 'w').close()\nclass Evil:\n    def __init__(self, *a, **k): open('built', 'w').close()\n"

Config = dict[str, Any]
Place = tuple[Any, ...]


def base() -> Config:
    """A good config with most kinds of component."""
    tree: Config = sgm.load_config("digits").to_dict()
    tree["trainer"]["callbacks"] = ["lr_monitor", {"use": "image_logger", "every_n_steps": 5}]
    tree["trainer"]["logger"] = [{"use": "csv"}]
    tree["vars"] = {"a": {"b": 1}}
    return tree


def as_value(tree: Config, place: Place, text: str) -> None:
    at_path(tree, place[:-1])[place[-1]] = text


def as_component(tree: Config, place: Place, text: str) -> None:
    at_path(tree, place[:-1])[place[-1]] = {"use": text, "args": ["ls"], "shell": True}


def as_item(tree: Config, place: Place, text: str) -> None:
    at_path(tree, place[:-1])[place[-1]] = [text, {"use": text}]


def as_key(tree: Config, place: Place, text: str) -> None:
    holder = at_path(tree, place[:-1])
    if isinstance(holder, dict):
        holder[text] = holder.pop(place[-1])


def as_extra_key(tree: Config, place: Place, text: str) -> None:
    holder = at_path(tree, place)
    if isinstance(holder, dict):
        holder[text] = {"use": text}


def as_reference(tree: Config, place: Place, text: str) -> None:
    at_path(tree, place[:-1])[place[-1]] = f"${{{text}}}"


POSITIONS: list[Callable[[Config, Place, str], None]] = [
    as_value, as_component, as_item, as_key, as_extra_key, as_reference,
]  # fmt: skip


def write_jobs(folder: Path, configs: int) -> list[list[str]]:
    """The command lines, each with a file of its own."""
    draw, good = random.Random(0), base()
    places = list(paths(good))
    jobs = []
    for number in range(configs):
        file, tree, overrides = folder / f"{number}.yaml", copy.deepcopy(good), []
        place, text = places[number % len(places)], draw.choice(HOSTILE + REFERENCES)
        dotted = ".".join(map(str, place))
        position = number % (len(POSITIONS) + 5)
        if position < len(POSITIONS):
            POSITIONS[position](tree, place, text)
            yaml = write(tree).yaml
        elif position == len(POSITIONS):
            as_value(tree, place, "TAGGED")
            yaml = write(tree).yaml.replace('"TAGGED"', draw.choice(TAGS))
        elif position == len(POSITIONS) + 1:
            overrides = [f"{dotted}={draw.choice([text, *TAGS])}"]
        elif position == len(POSITIONS) + 2:
            overrides = [f"{dotted}.{text}=1", f"{text}={text}", f"{dotted}={{use: {text!r}, x: 1}}"]
        elif position == len(POSITIONS) + 3:
            tree = {"extends": draw.choice([text, [text], "./throwaway_evil.py"])} | tree
        else:
            tree["vars"]["mine"] = {text: text}
            overrides = [f"{dotted}=${{vars.mine.{text}}}"]
        if position >= len(POSITIONS) + 1:
            yaml = write(tree).yaml
        file.write_text(yaml, encoding="utf-8")
        jobs.append(["check", file.name, *overrides])
    jobs += [["check", text] for text in HOSTILE]  # where the name of a config stands
    return jobs


@pytest.mark.parametrize("configs", [pytest.param(100, marks=pytest.mark.essential), 1000])
def test_dotted_strings_import_and_run_nothing(tmp_path, python, configs):
    """B29: the reference runs any callable that a config names."""
    (tmp_path / "throwaway_evil.py").write_text(EVIL, encoding="utf-8")
    (tmp_path / "good.yaml").write_text(write(base()).yaml, encoding="utf-8")
    bad = {**base(), "model": {"use": "nope"}, "seed": "${oc.env:A_SECRET}", "nope": 1}
    (tmp_path / "bad.yaml").write_text(write(bad).yaml, encoding="utf-8")
    warm = [["check", name, *more] for name in ("good.yaml", "bad.yaml") for more in ([], ["seed=x"])]
    warm += [["check", "digitz"], ["check", "nothing.yaml"], ["check", "throwaway_evil.py"]]
    jobs = {
        "components": {kind: usable_names(kind) for kind in KINDS},
        "warm": warm,
        "run": write_jobs(tmp_path, configs),
    }
    (tmp_path / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    done = python(
        Path(__file__).with_name("audited.py"),
        "jobs.json",
        cwd=tmp_path,
        env={
            **os.environ,
            "A_SECRET": SECRET,
            "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)

    assert len(found["outcomes"]) == configs + len(HOSTILE)
    for arguments, (code, err) in zip(jobs["run"], found["outcomes"], strict=True):
        assert code in (0, 1), arguments
        assert (code == 0) == (not err), (arguments, err)
        assert "Traceback" not in err
    assert Counter(code for code, _ in found["outcomes"])[1] > configs / 2
    assert found["events"] == [], [(jobs["run"][job], *what) for job, *what in found["events"][:5]]
    assert {event for _, event, _ in found["control"]} >= {"import", "exec", "os.system", "open"}
    assert not (tmp_path / "ran").exists()
    assert SECRET not in done.stdout
