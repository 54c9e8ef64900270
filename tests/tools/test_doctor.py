"""Every way in which a plugin can be broken, all of them installed at once, and one that is fine."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from sgm_core.cli.app import main

GOOD = '''
class Good:
    """Nothing to complain about."""

    def __init__(self, x: int = 1) -> None:
        self.x = x

    def __call__(self, sigma: float) -> float:
        return sigma
'''

SAMPLER = '''
from sgm_core.roles import Sampler
class X(Sampler):
    """Fine."""
    def integrate(self, D, x, sigmas, noise, report): return x
'''

LR = '''
def fine(optimizer: object, *, steps: int = 1) -> object:
    """A schedule."""

def loose(optimizer, factor, **options):
    return None

def nothing() -> None:
    """It cannot be called with an optimizer."""
'''

WRONG = '''
from sgm_core.roles import Sampler, Weighting

number = 3

class NoSampler:
    """It extends nothing."""

class HalfSampler(Sampler):
    """It has no `integrate`."""

class Undocumented(Weighting):
    def __call__(self, sigma):
        return sigma

class Unreachable(Weighting):
    """A config cannot give it what it needs."""

    def __init__(self, file: bytearray) -> None: ...

    def __call__(self, sigma):
        return sigma
'''

HANGS = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(os.environ["DOCTOR_PIDS"], "a").write(f"{os.getpid()} {child.pid} ")
print("going")
print("to sleep")
time.sleep(600)
"""

SOURCES = {
    "import_error": "from json import nothing_of_that_name\n",
    "syntax_error": "def f(:\n",
    "runtime_error": "import warnings\n\nraise RuntimeError('two\\nlines')\n",
    "system_exit": "import sys\nsys.exit(3)\n",
    "interrupt": "raise KeyboardInterrupt\n",
    "os_exit": "import os\nprint('last words')\nos._exit(0)\n",
    "crash": "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n",
    "hangs": HANGS,
    "noisy": "import os, sys\nprint('hello')\nsys.stderr.write('there\\n')\nos.system('echo from outside')\n" + LR,
    "closes": "import sys\nsys.stdout.close()\nsys.stdin.read()\n" + LR,
    "forks": "import os\nos.fork()\n" + LR,
}


@pytest.fixture
def sgm(capfd):
    """Runs `sgm doctor` in this process: (exit code, what it wrote)."""

    def run(*arguments: str) -> tuple[int, str]:
        capfd.readouterr()
        code = main(["doctor", *arguments])
        out, err = capfd.readouterr()
        return code, out + err

    return run


@pytest.fixture
def pids(tmp_path, monkeypatch) -> Path:
    """Where the hanging plugin writes which processes it has."""
    monkeypatch.setenv("DOCTOR_PIDS", str(tmp_path / "pids"))
    return tmp_path / "pids"


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return not Path("/proc").is_dir()
    return state != "Z"


@pytest.mark.skipif(os.name == "nt", reason="signals and fork")
def test_every_broken_plugin_is_told_apart_in_one_run_and_a_good_one_is_fine(make_distribution, sgm, pids):
    for name, source in SOURCES.items():
        module = f"throwaway_{name}"
        make_distribution(f"sgm-{name}", {"sgm.lr_schedules": {name: f"{module}:fine"}}, {f"{module}.py": source})
    make_distribution(
        "sgm-needs",
        {"sgm.lr_schedules": {"extra": "throwaway_a:fine", "hard": "throwaway_b:fine", "other": "throwaway_c:fine"}},
        {"throwaway_a.py": "import nowhere_a", "throwaway_b.py": "import nowhere_b", "throwaway_c.py": "import ghost"},
        extras={"big": ["nowhere-a>=1"]},
    )
    (folder,) = (Path(path) for path in sys.path if (Path(path) / "throwaway_b.py").exists())
    header = folder / "sgm_needs-1.0.dist-info" / "METADATA"
    header.write_text(header.read_text().replace("\n\n", "\nRequires-Dist: nowhere_b<3\n\n", 1))
    make_distribution(
        "sgm-wrong",
        {
            "sgm.samplers": {"no_sampler": "throwaway_wrong:NoSampler", "half": "throwaway_wrong:HalfSampler"},
            "sgm.weightings": {
                "number": "throwaway_wrong:number",
                "module": "throwaway_wrong",
                "typo": "throwaway_wrong:Undocumentd",
                "undocumented": "throwaway_wrong:Undocumented",
                "unreachable": "throwaway_wrong:Unreachable",
            },
            "sgm.lr_schedules": {"loose": "throwaway_lr:loose", "nothing": "throwaway_lr:nothing"},
            "sgm.embeders": {"lost": "throwaway_lr:fine"},
        },
        {"throwaway_wrong.py": WRONG, "throwaway_lr.py": LR},
    )
    make_distribution("sgm-good", {"sgm.lr_schedules": {"good": "throwaway_good:fine"}}, {"throwaway_good.py": LR})

    code, text = sgm("--json", "--timeout", "10")
    assert code == 1
    rows = [row for distribution in json.loads(text) for row in distribution["components"]]
    found = {row["name"]: row for row in rows if row["qualified"].startswith("sgm-")}

    for name, said in {
        "import_error": "ImportError: cannot import name 'nothing_of_that_name'",
        "syntax_error": "SyntaxError: ",
        "runtime_error": "RuntimeError: two lines (",
        "system_exit": "SystemExit: 3 (",
        "interrupt": "KeyboardInterrupt (",
        "os_exit": "the import ended the process, with exit code 0",
        "crash": "the import crashed the process: SIGSEGV",
        "hangs": "it was stopped: the import did not end within 10 s",
        "extra": 'pip install "sgm-needs[big]"',
        "hard": 'sgm-needs requires it: pip install "nowhere_b<3"',
        "other": "The module 'ghost' is not installed. Perhaps an extra of sgm-needs brings it: big",
        "no_sampler": "NoSampler is no subclass of sgm_core.roles.Sampler, as a sampler must be",
        "half": "HalfSampler does not define integrate",
        "number": "it is 3; a class or a function is needed",
        "module": "it is a module; a class or a function is needed",
        "typo": "Did you mean 'Undocumented'?",
        "nothing": "it takes no 'optimizer', which a lr_schedule is called with",
        "lost": "there is no such kind. Did you mean 'embedders'?",
    }.items():
        assert not found[name]["loads"], name
        assert said in found[name]["reason"], found[name]["reason"]
        assert "\n" not in found[name]["reason"]
    assert "throwaway_runtime_error.py:3)" in found["runtime_error"]["reason"]
    assert "line 1" in found["syntax_error"]["reason"]

    for name in ("good", "noisy", "closes", "forks", "loose", "undocumented", "unreachable"):
        assert found[name]["loads"], found[name]
        assert found[name]["milliseconds"] < 3000
    assert found["good"]["problems"] == []
    assert found["good"]["output"] == ""
    assert [problem.split(",")[0] for problem in found["loose"]["problems"]] == [
        "parameter 'factor' is not annotated",
        "it takes **kwargs",
        "it has no docstring",
    ]
    assert found["undocumented"]["problems"] == ["it has no docstring"]
    assert found["unreachable"]["problems"][0].startswith("parameter 'file' cannot come from a config")
    assert found["noisy"]["output"] == "hello\nthere\nfrom outside"
    assert found["os_exit"]["output"] == "last words"
    assert found["hangs"]["output"] == "going\nto sleep"
    numbers = [int(pid) for pid in pids.read_text().split()]
    assert len(numbers) == 2
    assert not any(alive(pid) for pid in numbers)


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_component_that_takes_its_process_down_leaves_the_others_their_turn(make_distribution, sgm):
    make_distribution(
        "sgm-mixed",
        {
            "sgm.lr_schedules": {
                "a": "throwaway_x:fine",
                "b": "throwaway_y:fine",
                "c": "throwaway_y:other",
                "d": "throwaway_z:fine",
            }
        },
        {"throwaway_x.py": LR, "throwaway_y.py": "import os\nos._exit(7)\n", "throwaway_z.py": LR},
    )
    code, text = sgm("sgm_mixed")
    assert code == 1
    verdicts = [tuple(line.split()[:2]) for line in text.splitlines()[1:-1]]
    assert verdicts == [
        ("fine", "lr_schedules/a"),
        ("BROKEN", "lr_schedules/b"),
        ("BROKEN", "lr_schedules/c"),
        ("fine", "lr_schedules/d"),
    ]
    assert text.count("exit code 7") == 2
    assert text.splitlines()[-1] == "1 distribution, 4 components: 2 can be used (0 of them with remarks), 2 broken"


def test_torch_does_not_count_as_the_plugins_time(make_distribution, sgm):
    source = "import time\nimport torch\nimport lightning\ntime.sleep(0.2)\n" + LR
    make_distribution(
        "sgm-heavy", {"sgm.lr_schedules": {"heavy": "throwaway_heavy:fine"}}, {"throwaway_heavy.py": source}
    )
    code, text = sgm("sgm-heavy", "--json", "--timeout", "1.5")
    (row,) = json.loads(text)[0]["components"]
    assert code == 0, row
    assert 200 <= row["milliseconds"] < 1000


def test_a_denied_plugin_is_not_examined(make_distribution, sgm, monkeypatch):
    make_distribution("sgm-crash", {"sgm.lr_schedules": {"x": "throwaway_crash:x"}}, {"throwaway_crash.py": "1 / 0"})
    monkeypatch.setenv("SGM_PLUGINS", "-sgm-crash")
    code, text = sgm("sgm-crash")
    assert code == 1
    assert "no distribution 'sgm-crash'" in text
    assert "SGM_PLUGINS" in text


def test_an_unknown_distribution_is_answered_with_what_there_is(sgm):
    code, text = sgm("sgm-cor")
    assert code == 1
    assert "Did you mean 'sgm-core'?" in text
    assert sgm("--timeout", "0")[0] == 1


@pytest.mark.slow
def test_the_built_ins_are_fine(sgm):
    code, text = sgm("--json", "sgm-core")
    rows = [row for distribution in json.loads(text) for row in distribution["components"]]
    broken = [row for row in rows if not row["loads"]]
    if not find_spec("wandb"):  # the one extra that the tests do not install: 90 MB
        assert [(row["name"], row["state"], row["extra"], code) for row in broken] == [("wandb", "extra", "wandb", 0)]
        rows = [row for row in rows if row["loads"]]
    else:
        assert code == 0, broken
    own = [row for row in rows if not row["value"].startswith(("torch.", "lightning."))]
    assert not [(row["name"], row["problems"]) for row in own if row["problems"]]


def test_a_plugin_with_hooks_is_verified_as_a_session_does(make_distribution, sgm):
    source = "from sgm_core import hookimpl\n@hookimpl\ndef "
    files = {"throwaway_fine.py": f"{source}commands(): ...", "throwaway_odd.py": f"{source}comands(): ..."}
    make_distribution("sgm-told", {"sgm.plugins": {"fine": "throwaway_fine", "odd": "throwaway_odd"}}, files)
    rows = {row["name"]: row for row in json.loads(sgm("sgm-told", "--json")[1])[0]["components"]}
    assert rows["fine"]["loads"]
    assert not rows["odd"]["loads"]
    assert "there is no hook 'comands'. Did you mean 'commands'?" in rows["odd"]["reason"]


def test_each_component_has_its_own_output(make_distribution, sgm):
    make_distribution(
        "sgm-talks",
        {"sgm.lr_schedules": {name: f"throwaway_{name}:fine" for name in "abc"}},
        {f"throwaway_{name}.py": f"for i in range(99):\n    print('{name}', flush=True)\n" + LR for name in "abc"},
    )
    rows = json.loads(sgm("sgm-talks", "--json")[1])[0]["components"]
    assert {row["name"]: row["output"] for row in rows} == {name: "\n".join(name * 99) for name in "abc"}
    assert sgm("sgm-talks")[1].count("(and 98 more lines)") == 3


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_ends_the_examined_processes_too(make_distribution, pids):
    here = make_distribution(
        "sgm-hangs", {"sgm.lr_schedules": {"hangs": "throwaway_hangs:x"}}, {"throwaway_hangs.py": HANGS}
    )
    code = "import sys; from sgm_core.cli.app import main; sys.exit(main(['doctor', 'sgm-hangs', '--timeout', '100']))"
    path = os.pathsep.join([str(here), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        # what a shell starts in the background ignores SIGINT, and hands that on
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        while not (pids.exists() and pids.read_text().endswith(" ")):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
    finally:
        process.kill()
    assert not any(alive(int(pid)) for pid in pids.read_text().split())


def test_commands_and_sections_are_examined(sgm, make_distribution):
    files = {"throwaway_bad.py": "settings = 3\ndef add_arguments(parser): ...\n"}
    points = {"sgm.commands": {"bad": "throwaway_bad"}, "sgm.sections": {"bad": "throwaway_bad:settings"}}
    make_distribution("sgm-bad", points, files)
    code, text = sgm("--json", "sgm-bad")
    assert code == 1
    for problem in ("it has no function run", "it is 3; a dataclass is needed"):
        assert problem in text


def test_a_missing_extra_is_no_fault(make_distribution, sgm):
    files = {"throwaway_extra.py": "import lib_nowhere\ndef fine(optimizer: object) -> object: ..."}
    entries = {"sgm.lr_schedules": {"needs": "throwaway_extra:fine"}}
    make_distribution("sgm-extra", entries, files, extras={"big": ["lib-nowhere"]})
    code, text = sgm("sgm-extra")
    assert code == 0
    assert "extra   lr_schedules/needs" in text
    assert 'pip install "sgm-extra[big]"' in text
    assert "1 for which an extra is missing, 0 broken" in text


def test_who_has_broken_metadata_is_blamed_and_nobody_else(make_distribution, capsys):
    good = make_distribution(
        "sgm-good", {"sgm.samplers": {"x": "throwaway_sampler:X"}}, {"throwaway_sampler.py": SAMPLER}
    )
    bad = make_distribution("sgm-bad", {"sgm.samplers": {"y": "nowhere:Y"}})
    file = bad / "sgm_bad-1.0.dist-info" / "entry_points.txt"
    file.write_text("[sgm.samplers]\nkey without a value\n")
    assert good.is_dir()
    assert main(["doctor", "sgm-good", "--json"]) == 1
    out, err = capsys.readouterr()
    (row,) = json.loads(out)[0]["components"]
    assert row["state"] == "unknown"
    assert row["reason"] == "not examined: the metadata of another distribution cannot be read"
    assert f"BROKEN  sgm-bad: {file}:2 is no 'name = module': 'key without a value'" in err


DECLARED = '''
import functools
from torch import nn


class Base(nn.Module):
    """Is fine."""

    def __init__(self, width: int = 4):
        super().__init__()


class Number(Base):
    """A forgotten comma."""

    @staticmethod
    def shapes(labels, *, width):
        return (width)


class Minus(Base):
    """A length below 1."""

    @staticmethod
    def shapes(labels, *, width):
        return (-1,)


class Unknown(Base):
    """It asks for what nobody gives."""

    @staticmethod
    def shapes(labels, *, size):
        return (size,)


class Bound(Base):
    """It would be called with an object."""

    def shapes(self, labels):
        return (4,)


class Raises(Base):
    """It does not work."""

    @staticmethod
    def shapes(labels, *, width):
        return labels.shape


class Good(Base):
    """Two outputs, one of unknown width."""

    @staticmethod
    def shapes(labels, *, width):
        return [(width,), (77, None)]


class Positional(nn.Module):
    """It can never be built."""

    def __init__(self, width: int, /, depth: int = 1):
        super().__init__()


class Default(nn.Module):
    """A default that its hint excludes."""

    def __init__(self, width: int = None, mode: str = 3):
        super().__init__()


class Refuses(Base):
    """Of an earlier version."""

    refuses = ["width > 3"]


class Maker:
    """Makes them."""

    def __call__(self, width: int) -> nn.Module:
        return Base(width)


maker, part = Maker(), functools.partial(Base, width=3)
'''


def test_what_a_component_declares_is_checked(make_distribution, sgm):
    names = {
        "number": ("Number", ["its `shapes` is wrong: it gives 4; a tuple of lengths"]),
        "minus": ("Minus", ["its `shapes` is wrong: it gives (-1,); a tuple of lengths"]),
        "unknown": ("Unknown", ["its `shapes` asks for 'size', which is no parameter of the constructor"]),
        "bound": ("Bound", ["its `shapes` is no static method"]),
        "raises": ("Raises", ["its `shapes` fails: AttributeError"]),
        "good": ("Good", []),
        "default": (
            "Default",
            [
                "the default of 'width' is None, but its hint says an integer",
                "the default of 'mode' is 3, but its hint says a string",
            ],
        ),
        "refuses": ("Refuses", ["Refuses declares `refuses`, which is not read any more"]),
        "maker": ("maker", []),
        "part": ("part", []),
        "identity": ("Base", ["the name 'identity' is a built-in's: a config has to write 'sgm-declared:identity'"]),
    }
    points = {name: f"throwaway_declared:{attribute}" for name, (attribute, _) in names.items()}
    points["positional"] = "throwaway_declared:Positional"
    make_distribution("sgm-declared", {"sgm.embedders": points}, {"throwaway_declared.py": DECLARED})
    code, text = sgm("sgm-declared", "--json")
    assert code == 1
    found = {row["name"]: row for row in json.loads(text)[0]["components"]}
    reason = found.pop("positional")["reason"]
    assert reason.startswith("its parameter 'width' is positional-only, so that no config can give it: remove the '/'")
    assert "throwaway_declared.py:" in reason
    for name, (_, expected) in names.items():
        assert not found[name]["reason"], found[name]
        assert len(found[name]["problems"]) == len(expected), found[name]
        for problem, start in zip(found[name]["problems"], expected, strict=True):
            assert problem.startswith(start), problem


HOOK = "from sgm_core import hookimpl\n\n"
FAMILY = "from sgm_core.checkpoints.family import Family, Form, Model\n\n\nclass thing(Family):\n    title = 'T'\n"
SECTION = "from dataclasses import dataclass\n\n\n@dataclass\nclass thing:\n"

CULPRITS = {
    # name: (group, source, what is said, the line that is named)
    "import-error": ("lr_schedules", "from json import nothing_there\n", "ImportError: cannot import name", 1),
    "missing-module": ("lr_schedules", "import nowhere_at_all\n", "The module 'nowhere_at_all' is not installed", 1),
    "syntax-error": ("lr_schedules", "def f(:\n", "SyntaxError: invalid syntax", None),
    "raises": ("lr_schedules", "\nraise RuntimeError('no licence')\n", "RuntimeError: no licence", 2),
    "exits": ("lr_schedules", "import sys\nsys.exit(3)\n", "SystemExit: 3", 2),
    "interrupts": ("lr_schedules", "raise KeyboardInterrupt\n", "KeyboardInterrupt", 1),
    "ends": ("lr_schedules", "import os\nos._exit(4)\n", "the import ended the process, with exit code 4", None),
    "recursion": ("lr_schedules", "def f(): f()\nf()\n", "RecursionError", 1),
    "typo": ("lr_schedules", "def thin(optimizer): ...\n", "Did you mean 'thin'?", None),
    "number": ("lr_schedules", "thing = 3\n", "it is 3; a class or a function is needed", None),
    "nothing": ("lr_schedules", "thing = None\n", "it is None; a class or a function is needed", None),
    "no-optimizer": ("lr_schedules", "def thing(): ...\n", "it takes no 'optimizer'", None),
    "positional": ("lr_schedules", "def thing(optimizer, n: int, /): ...\n", "'n' is positional-only", 1),
    "no-base": ("samplers", "class thing: ...\n", "thing is no subclass of sgm_core.roles.Sampler", None),
    "abstract": ("samplers", "from sgm_core.roles import Sampler\nclass thing(Sampler): ...\n", "integrate", None),
    "no-kind": ("smplers", "class thing: ...\n", "there is no such kind. Did you mean 'samplers'?", None),
    "unknown-hook": ("plugins", HOOK + "@hookimpl\ndef session_begin(command): ...\n", "no hook 'session_begin'", 3),
    "hook-parameter": ("plugins", HOOK + "@hookimpl\ndef session_start(cmd): ...\n", "cmd", 3),
    "no-hook": ("plugins", "def session_start(command): ...\n", "is decorated @sgm_core.hookimpl", None),
    "hook-class": ("plugins", "class thing: ...\n", "is a class: name a module, or an instance", 1),
    "hook-order": ("plugins", HOOK + "@hookimpl(trylast=True)\ndef session_start(): ...\n", "is marked trylast", 3),
    "command": ("commands", "def add_arguments(parser): ...\n", "it has no function run", None),
    "command-run": ("commands", "def add_arguments(p): ...\ndef run(): ...\n", "cannot be called as run(options)", 2),
    "section": ("sections", "thing = {'every': 3}\n", "it is {'every': 3}; a dataclass is needed", None),
    "section-needs": ("sections", SECTION + "    every: int\n", "its field 'every' has no default", 4),
    "section-object": ("sections", SECTION + "    every: bytes = b''\n", "'every' cannot come from a config", 4),
    "section-flag": ("sections", SECTION + "    every: int = 1\n    resumable = 'no'\n", "`resumable` is 'no'", 4),
    "family-form": ("families", FAMILY + "    forms = (Form('a', 'A', has='model.'),)\n", "`forms[0].has` is wrong", 4),
    "family-regex": ("families", FAMILY + "    forms = (Form('a', 'A', has=('(',)),)\n", "`recognises` fails: ", None),
    "family-shape": (
        "families", FAMILY + "    models = (Model('M', shapes={'a.b': 3}),)\n", "`models[0].shapes.a.b` is wrong", 4,
    ),
    "family-entries": ("families", FAMILY + "    def entries(self, request):\n        return 3\n", "gives 3; a m", 6),
    "configs": ("configs", "", "there is no package 'throwaway_nowhere'", None),
}  # fmt: skip
"""One broken plugin each."""


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_of_many_broken_plugins_each_culprit_is_named_with_its_line_and_the_way_out(make_distribution, sgm):
    good = {"throwaway_good.py": LR + "\n" + SECTION.replace("thing", "Notes") + "    every: int = 1\n"}
    points = {"sgm.lr_schedules": {"good": "throwaway_good:fine"}, "sgm.sections": {"notes": "throwaway_good:Notes"}}
    make_distribution("sgm-good", points, good)
    for name, (group, source, _, _) in CULPRITS.items():
        module = f"throwaway_{name.replace('-', '_')}"
        whole = group == "commands" or (group == "plugins" and name != "hook-class")
        value = "throwaway_nowhere" if group == "configs" else module if whole else f"{module}:thing"
        make_distribution(f"sgm-{name}", {f"sgm.{group}": {name: value}}, {f"{module}.py": source})
    code, text = sgm("--timeout", "20")
    assert code == 1
    blocks = {block.split()[0]: block for block in re.split(r"\n(?=\S)", text) if block.startswith("sgm-")}
    assert "BROKEN" not in blocks["sgm-good"]
    named = 0
    for name, (_, _, said, line) in CULPRITS.items():
        block = blocks[f"sgm-{name}"]
        assert block.startswith(f"sgm-{name} 1.0  (to do without it: --plugins -sgm-{name})\n"), block
        assert block.count("BROKEN") == 1, block
        assert said in block, (name, block)
        if line is not None:
            assert f"throwaway_{name.replace('-', '_')}.py:{line})" in block, (name, block)
        named += 1
    assert named == len(CULPRITS) >= 30
