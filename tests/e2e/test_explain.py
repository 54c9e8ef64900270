"""`sgm explain` as a user meets it."""

import json
import os
import re
from pathlib import Path

import pytest
import yaml
from support.shipped import usable_configs

from sgm_core.cli.app import main
from sgm_plugins.tools.explain.command import table


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def sgm(capsys):
    """Runs a command in this process: (exit code, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(arguments)
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


SMALL = """\
extends: digits
model:
  network: {channel_mult: [1]}
  sampler:
    num_steps: ${vars.steps}
vars: {steps: 7, texts: [a, "b, c", "two\\nlines"]}
"""


def rows_of(text: str) -> dict[str, str]:
    """Left column, stripped -> right column."""
    return {left.strip(): right for left, _, right in (line.partition("  # ") for line in text.splitlines())}


# --- text ----------------------------------------------------------------------------------------------------------


def test_values_stand_left_and_their_origins_right(sgm):
    Path("small.yaml").write_text(SMALL)
    code, out, err = sgm("explain", "small.yaml", "model.ema.decay=0.5", "model")
    assert (code, err) == (0, "")
    columns = {line.index("  # ") for line in out.splitlines()}
    assert len(columns) == 1
    rows = {key.replace("'", ""): origin for key, origin in rows_of(out).items()}
    assert rows["num_steps: 7"] == "small.yaml:5:16"
    assert rows["channel_mult: [1]"] == "small.yaml:3:27"
    assert rows["decay: 0.5"] == "override 'model.ema.decay=0.5'"
    assert rows["s_tmax: .inf"] == "default of sgm-core:euler_edm"
    assert re.fullmatch(r"/.*digits\.yaml:\d+:\d+", rows["use: euler_edm"])
    assert re.fullmatch(r"sgm-core:euler_edm \S+, /.*/euler_edm\.py:\d+", rows["sampler:"])


@pytest.mark.parametrize("name", [*usable_configs(public=False), "sd_xl_base", "svd"])
def test_every_shipped_config_explains_and_the_text_is_a_config_again(sgm, name):
    """A part with its defaults, as shown, is what the part is."""
    code, out, _ = sgm("explain", name)
    assert code == 0
    Path("full.yaml").write_text(out)
    assert sgm("check", "full.yaml")[0] == 0
    again = json.loads(sgm("explain", "full.yaml", "--json")[1])
    first = json.loads(sgm("explain", name, "--json")[1])
    assert [(r["path"], r.get("value")) for r in again] == [(r["path"], r.get("value")) for r in first]
    assert {r["origin"]["from"] for r in again} <= {"file", "default"}


def test_files_below_the_working_folder_are_shown_from_there(sgm):
    Path("small.yaml").write_text(SMALL)
    out = sgm("explain", str(Path("small.yaml").resolve()), "model.sampler.num_steps")[1]
    assert out.split("  # ")[1] == "small.yaml:5:16\n"


def test_texts_stay_on_one_line(sgm):
    Path("small.yaml").write_text(SMALL)
    out = sgm("explain", "small.yaml", "vars")[1]
    assert len(out.splitlines()) == 3
    assert yaml.safe_load(out) == {"vars": {"steps": 7, "texts": ["a", "b, c", "two\nlines"]}}


def test_a_list_of_values_from_several_places_is_shown_one_by_one(sgm):
    rows = rows_of(sgm("explain", "digits", "model.network.channel_mult[0]=4", "model.network.channel_mult")[1])
    assert rows["- 4"] == "override 'model.network.channel_mult[0]=4'"
    assert rows["- 2"].endswith("digits.yaml:12:23")


@pytest.mark.parametrize("width", [20, 40, 72, 100, 240])
def test_with_a_width_no_line_is_longer_and_lines_keep_their_numbers(width):
    source = "/a/" + "b" * 90 + "/c.yaml:12:34"
    rows = [("  key: value", "file.yaml:3:4"), ("long: " + "x" * 90, source), ("k:", f"sgm-core:edm 0.1.0, {source}")]
    lines = table(rows, width).splitlines()
    assert all(len(line) <= width for line in lines)
    if width >= 40:
        assert lines[0].endswith("file.yaml:3:4")
        assert lines[1].endswith(":12:34")
    if width >= 100:
        assert "# sgm-core:edm 0.1.0, " in lines[2]
    if width == 240:
        assert table(rows, width) == table(rows)


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a terminal")
def test_a_terminal_is_not_written_over_its_edge(monkeypatch):
    master, slave = os.openpty()
    monkeypatch.setenv("COLUMNS", "60")
    with os.fdopen(slave, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr("sys.stdout", terminal)
        assert main(["explain", "digits", "model.sampler"]) == 0
        terminal.flush()
        lines = os.read(master, 10_000).decode().splitlines()
    os.close(master)
    assert len(lines) > 5
    assert max(map(len, lines)) == 60


# --- JSON ----------------------------------------------------------------------------------------------------------


def test_json_has_a_row_for_each_value_in_the_order_of_the_text(sgm):
    Path("small.yaml").write_text(SMALL)
    rows = json.loads(sgm("explain", "small.yaml", "model.sampler.s_churn=1", "model.sampler", "--json")[1])
    assert [row["path"].removeprefix("model.sampler") for row in rows] == [
        "", ".discretization", ".discretization.sigma_min", ".discretization.sigma_max", ".discretization.rho",
        ".num_steps", ".guider", ".guider.scale", ".guider.batched", ".s_churn", ".s_tmin", ".s_tmax", ".s_noise",
        ".start",
    ]  # fmt: skip
    by_path = {row["path"]: row for row in rows}
    sampler = by_path["model.sampler"]
    assert sampler["type"] == "component"
    assert sampler["value"] == "euler_edm"
    assert sampler["origin"]["from"] == "file"
    assert {key: sampler["component"][key] for key in ("kind", "name", "qualified", "distribution")} == {
        "kind": "samplers", "name": "euler_edm", "qualified": "sgm-core:euler_edm", "distribution": "sgm-core",
    }  # fmt: skip
    assert re.search(r"euler_edm\.py:\d+$", sampler["component"]["source"])
    assert by_path["model.sampler.num_steps"] == {
        "path": "model.sampler.num_steps", "type": "value", "value": 7,
        "origin": {"from": "file", "file": "small.yaml", "line": 5, "column": 16},
    }  # fmt: skip
    assert by_path["model.sampler.s_churn"]["origin"] == {"from": "override", "override": "model.sampler.s_churn=1"}
    assert by_path["model.sampler.s_tmax"] == {
        "path": "model.sampler.s_tmax", "type": "value", "value": ".inf",
        "origin": {"from": "default", "of": "sgm-core:euler_edm"},
    }  # fmt: skip


def test_json_is_the_same_each_time(sgm):
    assert sgm("explain", "digits", "--json")[1] == sgm("explain", "digits", "--json")[1]


# --- the part to show ----------------------------------------------------------------------------------------------


def test_a_part_may_be_named_in_three_ways(sgm):
    shown = sgm("explain", "digits", "model.sampler")[1]
    assert "euler_edm" in shown
    assert sgm("explain", "digits", "--path", "model.sampler")[1] == shown
    assert sgm("explain", "digits", "model.sampler", "seed=23")[1] == shown


def test_a_file_or_a_shipped_config_is_a_config_whatever_it_is_called(sgm):
    Path("seed").write_text("seed: 5\n")
    rows = json.loads(sgm("explain", "digits", "seed", "--json")[1])
    assert len(rows) > 50
    assert {"value": 5}.items() <= next(row for row in rows if row["path"] == "seed").items()
    assert json.loads(sgm("explain", "digits", "seed", "--path", "seed", "--json")[1])[0]["value"] == 5
    Path("model").mkdir()  # no file
    assert sgm("explain", "digits", "model")[1].startswith("model:")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits", "model.samplr"], "Did you mean 'sampler'?"),
        (["digits", "digitz"], "no shipped config either. Did you mean 'digits'?"),
        (["digits", "--path", "model.sampler.nothing"], "there is no 'nothing' in 'model.sampler'"),
        (["digits", "model", "--path", "data"], "--path says"),
        (["digits", "model", "data"], "no file and no shipped config 'model'"),
        (["digitz"], "Did you mean 'digits'?"),
        (["model.sampler"], "no file and no shipped config 'model.sampler'"),
        (["digits", "small.yaml"], "small.yaml: no such file"),
        (["seed=1"], "no config given"),
    ],
)
def test_wrong_input_is_one_message(sgm, arguments, message):
    code, out, err = sgm("explain", *arguments)
    assert (code, out) == (1, "")
    assert message in err
    assert "Traceback" not in err


def test_a_wrong_config_has_the_errors_of_check(sgm):
    arguments = ("digits", "model.network.in_channels=x", "model.sampler.num_stepz=3", "sede=4")
    code, out, err = sgm("explain", *arguments, "model.sampler")
    assert (code, out) == (1, "")
    assert err == sgm("check", *arguments)[2]
    assert err.count("override '") == 3
