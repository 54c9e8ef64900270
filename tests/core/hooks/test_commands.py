"""Sub-commands that plugins bring."""

import sys

import pytest

from sgm_core.cli.app import main

COUNT = '''
class Count:
    """Count to a number.

    And no further.
    """

    def add_arguments(self, parser):
        parser.add_argument("number", type=int)
        parser.add_argument("--fail", action="store_true")

    def run(self, options):
        print(*range(1, options.number + 1))
        if options.fail:
            raise SgmError("out of numbers")
        return 3 if options.number > 3 else 0

@hookimpl
def commands(): return {"count": Count()}
'''
FINISH = "@hookimpl\ndef session_finish(command, exit_code): print('finish', command, exit_code)\n"


def test_a_command_of_a_plugin_runs_in_a_session_and_gives_the_exit_code(make_plugin, capsys):
    make_plugin("sgm-a", COUNT + FINISH)
    assert main(["count", "2"]) == 0
    assert main(["count", "4"]) == 3
    assert main(["count", "--fail", "1"]) == 1
    out, err = capsys.readouterr()
    assert out == "1 2\nfinish count 0\n1 2 3 4\nfinish count 3\n1\nfinish count 1\n"
    assert err == "out of numbers\n"


def test_it_has_a_help_and_the_usual_errors_of_usage(make_plugin, capsys):
    make_plugin("sgm-a", COUNT + FINISH)
    with pytest.raises(SystemExit, match="0"):
        main(["count", "--help"])
    help_ = capsys.readouterr().out
    assert "Count to a number." in help_
    assert "--debug" in help_
    with pytest.raises(SystemExit, match="2"):
        main(["count", "many"])
    assert "invalid int value: 'many'" in capsys.readouterr().err


def test_the_help_of_sgm_lists_it_beside_the_built_in_ones(make_plugin, capsys):
    make_plugin("sgm-a", COUNT)
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert "  count     Count to a number." in lines
    assert "  train     Train a model." in lines


def test_an_unknown_command_is_an_error_of_usage_and_starts_no_session(make_plugin, capsys):
    make_plugin("sgm-a", COUNT + FINISH)
    with pytest.raises(SystemExit, match="2"):
        main(["cuont"])
    out, err = capsys.readouterr()
    assert "'cuont'" in err
    assert "count" in err.replace("cuont", "")
    assert out == ""


@pytest.mark.parametrize("arguments", [["list"], ["check", "digits"], ["show", "scalings/edm"], ["schema"]])
def test_a_command_that_opens_no_session_imports_no_plugin(make_plugin, capsys, arguments):
    make_plugin("sgm-a", COUNT)
    assert main(arguments) == 0
    assert "throwaway_sgm_a" not in sys.modules


def test_plugins_are_chosen_before_any_is_imported(make_plugin, monkeypatch, capsys):
    monkeypatch.setenv("SGM_PLUGINS", "")  # which --plugins changes
    make_plugin("sgm-a", COUNT)
    make_plugin("sgm-b", "raise SystemExit('imported')")
    assert main(["count", "1", "--plugins=-sgm-b"]) == 0
    assert capsys.readouterr() == ("1\n", "")
    with pytest.raises(SystemExit):
        main(["count", "1", "--plugins", "off"])


def test_a_built_in_name_can_not_be_taken(make_plugin, capsys):
    make_plugin("sgm-a", COUNT.replace('"count"', '"train"'))
    with pytest.raises(SystemExit):
        main(["--help"])
    out, err = capsys.readouterr()
    assert "the command 'train' exists already and cannot be replaced" in err
    assert "  train     Train a model." in out


def test_two_plugins_on_one_name_are_an_error_only_where_it_is_used(make_plugin, capsys):
    make_plugin("sgm-b", COUNT)
    make_plugin("sgm-a", COUNT.replace('"count": Count()', '"count": Count(), "more": Count()'), version="2.0")
    assert main(["more", "1"]) == 0
    assert main(["count", "1"]) == 1
    assert capsys.readouterr().err == (
        "the command 'count' is offered by plugin sgm-a:main 2.0 and plugin sgm-b:main 1.0. "
        "Write sgm-a:count or sgm-b:count.\n"
    )
    assert main(["sgm-b:count", "1"]) == 0
    with pytest.raises(SystemExit):
        main(["--help"])
    assert {"sgm-a:count", "sgm-b:count", "more"} <= {
        line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()
    }


BAD = {
    "no mapping": "return ['count']",
    "a name that is none": "return {'Count!': Count()}",
    "no run": "return {'count': object()}",
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD)
def test_a_plugin_that_offers_nonsense_is_left_out(make_plugin, capsys, body):
    make_plugin("sgm-a", COUNT.replace('return {"count": Count()}', body))
    with pytest.raises(SystemExit):
        main(["--help"])
    out, err = capsys.readouterr()
    assert err.startswith("warning: plugin sgm-a:main 1.0 is left out: commands: ValueError: ")
    assert "Count" not in out


def test_what_a_command_declares_wrongly_names_its_plugin(make_plugin, capsys):
    make_plugin("sgm-a", COUNT.replace('"--fail"', '"--debug"'))
    assert main(["count", "1"]) == 1
    assert capsys.readouterr().err.startswith("plugin sgm-a:main 1.0: command 'count': ArgumentError: ")
