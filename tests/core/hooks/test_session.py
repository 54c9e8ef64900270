"""When hooks are called, and what becomes of a plugin that fails."""

import re

import pytest
from support.foreign import foreign

import sgm_core as sgm
from sgm_core.config import listeners
from sgm_core.errors import SgmError
from sgm_core.hooks.session import current

TELLS = """
@hookimpl
def session_start(command): print(__name__[-5:], "start", command)

@hookimpl
def session_finish(command, exit_code, error): print(__name__[-5:], "finish", command, exit_code, repr(error))
"""


def told(capsys) -> list[str]:
    return [line.strip() for line in capsys.readouterr().out.splitlines()]


def test_plugins_are_told_of_start_and_finish_in_the_order_of_their_distributions(make_plugin, capsys):
    make_plugin("sgm-b", TELLS)
    make_plugin("sgm-a", TELLS)
    with sgm.session("train"):
        assert told(capsys) == ["sgm_a start train", "sgm_b start train"]
    assert told(capsys) == ["sgm_a finish train 0 None", "sgm_b finish train 0 None"]


@pytest.mark.parametrize(
    ("error", "code"), [(ValueError("no"), 1), (KeyboardInterrupt(), 130), (SystemExit(5), 5), (SystemExit(), 0)]
)
def test_the_finish_knows_how_it_ended(make_plugin, capsys, error, code):
    make_plugin("sgm-a", TELLS)
    with pytest.raises(type(error)), sgm.session():
        raise error
    assert told(capsys)[-1] == f"sgm_a finish python {code} {error!r}"
    assert current() is None


def test_a_session_inside_a_session_is_the_same(make_plugin, capsys):
    make_plugin("sgm-a", TELLS)
    with sgm.session("outer") as outer:
        with sgm.session("inner") as inner:
            assert inner is outer is current()
        assert current() is outer
    assert told(capsys) == ["sgm_a start outer", "sgm_a finish outer 0 None"]


def test_a_plugin_that_raises_is_left_out_for_the_rest_of_the_session(make_plugin, capsys):
    make_plugin("sgm-a", TELLS.replace('print(__name__[-5:], "start", command)', "1 / 0"))
    make_plugin("sgm-b", TELLS)
    with sgm.session():
        pass
    out, err = capsys.readouterr()
    assert out.split("\n")[:2] == ["sgm_b start python", "sgm_b finish python 0 None"]
    assert err.startswith(
        "warning: plugin sgm-a:main 1.0 is left out: session_start: ZeroDivisionError: division by zero ("
    )
    assert re.search(r"\(/.*\.py:\d+\) \(without it: --plugins -sgm-a\)\n$", err)
    assert err.count("\n") == 1


def test_a_plugin_that_exits_is_left_out_too(make_plugin, capsys):
    make_plugin("sgm-a", "@hookimpl\ndef session_start(): raise SystemExit('bye')")
    with sgm.session() as session:
        assert foreign(session.active) == []
    assert "SystemExit: bye" in capsys.readouterr().err


def test_a_failure_ends_a_strict_session(make_plugin, monkeypatch):
    make_plugin("sgm-a", "@hookimpl\ndef session_start(): 1 / 0")
    monkeypatch.setenv("SGM_PLUGINS_STRICT", "1")
    with pytest.raises(SgmError, match=r"plugin sgm-a:main 1\.0 is left out: session_start: ZeroDivisionError"):
        sgm.session().__enter__()
    assert current() is None


def test_an_sgm_error_speaks_to_the_user_and_those_that_were_told_of_the_start_are_told_of_the_end(make_plugin, capsys):
    make_plugin("sgm-a", TELLS)
    make_plugin("sgm-b", TELLS.replace('print(__name__[-5:], "start", command)', "raise SgmError('no licence')"))
    make_plugin("sgm-c", TELLS)
    with pytest.raises(SgmError, match=r"^plugin sgm-b:main 1.0: no licence$"), sgm.session():
        raise AssertionError
    assert [line.partition(" finish")[0] for line in told(capsys)] == ["sgm_a start python", "sgm_a"]


def test_what_goes_wrong_at_the_end_does_not_hide_what_went_wrong_before(make_plugin, capsys):
    make_plugin("sgm-a", "@hookimpl\ndef session_finish(): raise SgmError('not saved')")
    with pytest.raises(SgmError, match=r"^plugin sgm-a:main 1.0: not saved$"), sgm.session():
        pass
    with pytest.raises(RuntimeError, match="the reason"), sgm.session():
        raise RuntimeError("the reason")
    assert capsys.readouterr().err == "warning: plugin sgm-a:main 1.0: not saved\n"


# --- component_built -----------------------------------------------------------------------------------------------

LISTENS = """
@hookimpl
def component_built(component, entry, path):
    print(path, entry.qualified, type(component).__name__)
"""


def test_every_component_of_a_session_is_told_after_those_in_it(make_plugin, capsys):
    make_plugin("sgm-a", LISTENS)
    spec = {"use": "euler_edm", "num_steps": 2, "discretization": "edm", "guider": {"use": "cfg", "scale": 2.0}}
    sgm.build("samplers", spec)
    assert told(capsys) == []
    with sgm.session():
        sgm.build("samplers", spec)
        assert told(capsys) == [
            "discretization sgm-core:edm EDMDiscretization",
            "guider sgm-core:cfg ClassifierFreeGuidance",
            "sgm-core:euler_edm EulerEDMSampler",
        ]
    sgm.build("samplers", spec)
    assert told(capsys) == []


def test_a_late_component_is_told_when_it_is_made(make_plugin, capsys):
    import torch

    make_plugin("sgm-a", LISTENS)
    with sgm.session():
        make = sgm.build("optimizers", {"use": "adamw", "lr": 1e-3})
        assert told(capsys) == []
        make([torch.nn.Parameter(torch.zeros(1))])
        assert told(capsys) == ["sgm-core:adamw AdamW"]


def test_a_hook_that_builds_is_not_told_of_what_it_built(make_plugin, capsys):
    make_plugin("sgm-a", "import sgm_core\n" + LISTENS + "    sgm_core.build('guiders', 'identity')")
    with sgm.session():
        sgm.build("scalings", "edm")
    assert told(capsys) == ["sgm-core:edm EDMScaling"]


def test_building_costs_nothing_more_where_nobody_listens(make_plugin):
    make_plugin("sgm-a", TELLS)
    with sgm.session():
        assert listeners.built == []


def test_a_listener_can_refuse_a_component(make_plugin):
    make_plugin("sgm-a", "@hookimpl\ndef component_built(path): raise SgmError(f'{path} is too large')")
    with pytest.raises(SgmError, match=r"^plugin sgm-a:main 1.0: scaling is too large$"), sgm.session():
        sgm.build("denoisers", {"use": "continuous", "scaling": "edm"})
