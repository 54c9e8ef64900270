"""`sgm` finds its sub-commands among the entry points of `sgm.commands`, anyone's."""

import subprocess
import sys
from importlib.metadata import version

import pytest

from sgm_core.cli.app import main

COUNT = '''"""Count to a number.

And no further.
"""
import subprocess
import sys

def add_arguments(parser):
    parser.add_argument("number", type=int)

def run(options):
    print(*range(1, options.number + 1))
    return 3 if options.number > 3 else 0
'''
HOOKS = """import sgm_core
@sgm_core.hookimpl
def session_start(command): print("start", command)
"""


@pytest.fixture
def offer(make_distribution):
    """Install a distribution with the command `count`."""

    def make(distribution="sgm-a", source=COUNT, name="count", groups=(), version="1.0"):
        module = f"throwaway_{distribution.replace('-', '_')}"
        entries = {"sgm.commands": {name: module}, **dict(groups)}
        make_distribution(distribution, entries, {f"{module}.py": source, "throwaway_hooks.py": HOOKS}, version=version)

    return make


def test_a_command_of_a_third_party_runs_and_gives_the_exit_code(offer, capsys):
    offer()
    assert [main(["count", "2"]), main(["sgm-a:count", "4"])] == [0, 3]
    assert capsys.readouterr().out == "1 2\n1 2 3 4\n"


def test_its_help_is_its_docstring_and_the_listing_reads_it_without_an_import(offer, capsys):
    offer(source=COUNT + "raise RuntimeError('imported')\n")
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "  count     Count to a number." in capsys.readouterr().out.splitlines()
    assert "throwaway_sgm_a" not in sys.modules


def test_it_opens_a_session_only_if_it_says_so(offer, capsys):
    hooks = {"sgm.plugins": {"main": "throwaway_hooks"}}
    offer(groups=hooks.items())
    offer("sgm-b", COUNT + "session = True\n", "counted")
    assert main(["count", "1"]) == 0
    assert capsys.readouterr().out == "1\n"
    assert main(["counted", "1"]) == 0
    assert capsys.readouterr().out == "start counted\n1\n"


def test_two_offers_are_an_error_that_names_both_spellings(offer, capsys):
    offer()
    offer("sgm-b", version="2.0")
    assert main(["count", "1"]) == 1
    err = capsys.readouterr().err
    assert "sgm-a 1.0" in err
    assert "Write 'sgm-a:count' or 'sgm-b:count'." in err
    assert main(["sgm-b:count", "1"]) == 0


def test_a_built_in_name_stays_the_built_in_command(offer, capsys):
    offer(name="list")
    assert main(["list", "samplers"]) == 0
    assert "euler_edm" in capsys.readouterr().out
    assert main(["sgm-a:list", "1"]) == 0


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\n", "sgm-a 1.0: command 'count' has no function add_arguments"),
        ("import nowhere_at_all\n", "command 'count' of sgm-a 1.0 cannot be loaded from throwaway_sgm_a"),
        (COUNT.replace('"number"', '"--debug"'), "sgm-a 1.0: command 'count': ArgumentError"),
    ],
)
def test_a_broken_command_is_one_clear_line_and_breaks_no_other(offer, capsys, source, message):
    offer(source=source)
    assert main(["count", "1"]) == 1
    err = capsys.readouterr().err.replace("cannot", "cannot")
    assert message in err
    assert "Traceback" not in err
    assert main(["show", "scalings/edm"]) == 0


def test_a_blocked_plugin_brings_no_command(offer, monkeypatch, capsys):
    monkeypatch.setenv("SGM_PLUGINS", "")
    offer(source="raise SystemExit('imported')")
    with pytest.raises(SystemExit, match="2"):
        main(["count", "1", "--plugins", "off"])
    assert "there is no command 'count'" in capsys.readouterr().err


def test_started_as_a_module_nothing_of_the_working_folder_is_imported(tmp_path, monkeypatch):
    info = tmp_path / "evil-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text("[sgm.plugins]\nx = evil_plugin\n[sgm.commands]\nevil = evil_plugin\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
    for name in ("evil_plugin", "pluggy", "yaml", "torch"):
        (tmp_path / f"{name}.py").write_text("open('CANARY', 'w')\n")
    for arguments in (["list", "samplers"], ["check", "digits"], ["evil"]):
        command = [sys.executable, "-m", "sgm_core.cli", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == (2 if arguments == ["evil"] else 0), done.stderr
    assert not (tmp_path / "CANARY").exists()


def test_a_mistyped_command_is_told_the_nearest(capsys):
    for given, said in (("chek", "Did you mean 'check'?"), ("zzzzzz", "no command 'zzzzzz'. Commands: ")):
        with pytest.raises(SystemExit) as stopped:
            main([given, "digits"])
        assert stopped.value.code == 2
        assert said in capsys.readouterr().err


def test_the_version_is_that_of_the_distribution(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"sgm-core {version('sgm-core')}\n"
