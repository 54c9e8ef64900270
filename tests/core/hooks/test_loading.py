"""Each hook plugin is loaded whole or not at all, and none keeps the others from it."""

import sys

import pytest
from support.foreign import foreign

import sgm_core as sgm
from sgm_core.errors import SgmError

GOOD = "@hookimpl\ndef lightning_callbacks(): return []\n"

BROKEN = {
    "ImportError": ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    "SyntaxError": ("def", "SyntaxError: invalid syntax"),
    "RuntimeError": ("raise RuntimeError('not\\ntoday')", "RuntimeError: not today"),
    "SystemExit": ("raise SystemExit(3)", "SystemExit: 3"),
    "a parameter that the hook has not": ("@hookimpl\ndef config_loaded(konfig): ...", "{'konfig'}"),
    "an unknown hook": ("@hookimpl\ndef config_load(config): ...", "Did you mean 'config_loaded'?"),
    "a hook that it has twice": (
        "@hookimpl\ndef commands(): ...\n@hookimpl(specname='commands')\ndef more(): ...",
        "it implements 'commands' twice",
    ),
    "no hook": ("def config_loaded(config): ...", "nothing in throwaway_sgm_broken is decorated @sgm_core.hookimpl"),
    **{
        option: (f"@hookimpl({option}=True)\ndef session_start(command): yield", f"'session_start' is marked {option}")
        for option in ("tryfirst", "trylast", "wrapper", "hookwrapper")
    },
}


@pytest.mark.parametrize(("source", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_broken_plugin_is_reported_in_one_line_and_the_others_are_loaded(make_plugin, capsys, source, reason):
    make_plugin("sgm-a", GOOD)
    make_plugin("sgm-broken", source, version="2.3")
    make_plugin("sgm-c", GOOD)
    with sgm.session() as session:
        assert [plugin.entry.distribution for plugin in foreign(session.loaded)] == ["sgm-a", "sgm-c"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: plugin sgm-broken:main 2.3 is left out: ")
    assert reason in line


@pytest.mark.parametrize(("source", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_broken_plugin_ends_a_strict_session(make_plugin, monkeypatch, source, reason):
    make_plugin("sgm-broken", source)
    monkeypatch.setenv("SGM_PLUGINS_STRICT", "1")
    with pytest.raises(SgmError, match=r"plugin sgm-broken:main 1\.0 is left out") as raised, sgm.session():
        raise AssertionError
    assert reason in str(raised.value)


def test_ctrl_c_while_a_plugin_is_imported_is_no_failure_of_the_plugin(make_plugin):
    make_plugin("sgm-a", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt), sgm.session():
        raise AssertionError


def test_nothing_of_a_plugin_with_one_wrong_hook_is_called(make_plugin, capsys):
    make_plugin("sgm-a", "@hookimpl\ndef session_start(): print('told')\n@hookimpl\ndef session_finish(kode): ...")
    with sgm.session() as session:
        assert foreign(session.loaded) == []
    assert capsys.readouterr().out == ""


def test_a_class_is_not_taken_for_an_instance(make_distribution, capsys):
    source = (
        "from sgm_core import hookimpl\nclass Hooks:\n    @hookimpl\n    def session_start(self): ...\nhooks = Hooks()"
    )
    make_distribution(
        "sgm-a",
        {"sgm.plugins": {"cls": "throwaway_a:Hooks", "instance": "throwaway_a:hooks"}},
        {"throwaway_a.py": source},
    )
    with sgm.session() as session:
        assert [plugin.entry.name for plugin in foreign(session.loaded)] == ["instance"]
    assert "throwaway_a:Hooks is a class: name a module, or an instance of the class" in capsys.readouterr().err


def test_what_two_entries_offer_counts_once(make_distribution, capsys):
    source = "from sgm_core import hookimpl\n@hookimpl\ndef session_start(): print('told')"
    entries = {"sgm.plugins": {"b": "throwaway_a", "a": "throwaway_a"}}
    make_distribution("sgm-a", entries, {"throwaway_a.py": source})
    make_distribution("sgm-b", entries)
    with sgm.session() as session:
        assert [plugin.entry.qualified for plugin in foreign(session.loaded)] == ["sgm-a:a"]
    assert capsys.readouterr().out == "told\n"


def test_a_hook_of_a_later_core_can_be_optional(make_plugin):
    make_plugin("sgm-a", GOOD + "@hookimpl(optionalhook=True)\ndef hook_of_tomorrow(): ...")
    with sgm.session() as session:
        assert set(foreign(session.loaded)[0].hooks) == {"lightning_callbacks"}


@pytest.mark.parametrize("rule", ["off", "only:sgm-b", "-sgm-a"])
def test_a_plugin_that_is_not_allowed_is_never_imported(make_plugin, monkeypatch, rule):
    make_plugin("sgm-a", GOOD)
    make_plugin("sgm-b", GOOD)
    monkeypatch.setenv("SGM_PLUGINS", rule)
    with sgm.session() as session:
        assert "sgm-a" not in {plugin.entry.distribution for plugin in foreign(session.loaded)}
    assert "throwaway_sgm_a" not in sys.modules
    assert ("throwaway_sgm_b" in sys.modules) == (rule != "off")


def test_without_a_session_no_hook_module_is_imported(make_plugin, tmp_path):
    make_plugin("sgm-a", GOOD)
    sgm.names("embedders")
    sgm.build("scalings", "edm")
    sgm.load_config("digits")
    assert "throwaway_sgm_a" not in sys.modules
    with sgm.session():
        assert "throwaway_sgm_a" in sys.modules


def test_a_plugin_for_another_api_is_reported_and_never_imported(make_distribution, monkeypatch, capsys):
    entries = {"sgm.plugins": {"main": "throwaway_a"}, "sgm.api": {"999": "sgm_core"}}
    make_distribution("sgm-a", entries, {"throwaway_a.py": "raise SystemExit"})
    with sgm.session() as session:
        assert foreign(session.loaded) == []
    assert capsys.readouterr().err.startswith("warning: plugin sgm-a:main 1.0 is left out: sgm-a 1.0 was built for API")
    assert "throwaway_a" not in sys.modules
    monkeypatch.setenv("SGM_PLUGINS", "-sgm-a")
    with sgm.session():
        pass
    assert capsys.readouterr().err == ""
