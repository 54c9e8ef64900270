"""A page can be shared: it holds nothing of the machine, and nothing of other files, whatever lies in the folder."""

import json
import os
import socket
import sys

import pytest
from PIL import Image
from support.tiny_model import fit, make_engine

import sgm_core as sgm
from sgm_core.cli.app import main
from sgm_plugins.tools.report.page import Report
from sgm_plugins.tools.report.record import Record, read_record, shared_line
from sgm_plugins.tools.report.reporter import Reporter


@pytest.fixture
def config(tmp_path, monkeypatch):
    """With a secret of the environment, one of the command line, and a path."""
    monkeypatch.setenv("MY_TOKEN", "hunter2SECRET")
    monkeypatch.setenv("SGM_CONFIG_ENV", "MY_TOKEN")
    monkeypatch.setattr(sys, "argv", ["sgm", "train", "c.yaml", "vars.key=sk-CMDLINE"])
    home = tmp_path / "home" / "alice"
    home.mkdir(parents=True)
    text = f"extends: digits\nvars: {{t: '${{oc.env:MY_TOKEN}}', place: {home}/data}}\n"
    (home / "c.yaml").write_text(text)
    return lambda *more: sgm.load_config(
        str(home / "c.yaml"), overrides=["vars.key=sk-CMDLINE", "trainer.max_steps=4", *more]
    )


def leaks(folder) -> list[str]:
    secrets = ("hunter2SECRET", "sk-CMDLINE", "home/alice", str(folder.parent), os.getcwd(), socket.gethostname())  # noqa: PTH109
    texts = {name: (folder / name).read_text() for name in ("run.json", "report.html")}
    return [f"{name} has {secret}" for name, text in texts.items() for secret in secrets if secret in text]


def test_record_and_page_hold_no_secret_no_folder_and_no_host(config, tmp_path):
    run = tmp_path / "runs" / "x"
    run.mkdir(parents=True)
    fit(make_engine(), 4, [Reporter(config(), run)], default_root_dir=run)
    assert leaks(run) == []
    record = read_record(run)
    assert ["  max_steps: 4", "override 'trainer.max_steps=4'"] in record.config  # numbers stay
    assert ["  key: …", "override 'vars.key=…'"] in record.config
    assert any(text == "  place: …/data" for text, _ in record.config)
    assert record.state == "finished"
    assert main(["report", str(run)]) == 0
    assert leaks(run) == []


def test_a_resumed_run_hides_what_it_hid_before(config, tmp_path, monkeypatch):
    run = tmp_path / "runs" / "x"
    run.mkdir(parents=True)
    fit(make_engine(), 2, [Reporter(config(), run)], default_root_dir=run)
    (run / "config.yaml").write_text(config().to_yaml())
    assert "hunter2SECRET" in (run / "config.yaml").read_text()  # a resume needs it
    monkeypatch.delenv("MY_TOKEN")
    saved = sgm.load_config(str(run / "config.yaml"))
    fit(make_engine(), 4, [Reporter(saved, run)], default_root_dir=run)
    assert len(read_record(run).sessions) == 2
    assert leaks(run) == []


def test_those_who_want_paths_get_them(config, tmp_path, capsys):
    run = tmp_path / "runs" / "x"
    run.mkdir(parents=True)
    fit(make_engine(), 2, [Reporter(config(), run, paths=True)], default_root_dir=run)
    assert read_record(run).environment["host"] == socket.gethostname()
    assert {"sk-CMDLINE", "home/alice"} <= {
        word for word in ("sk-CMDLINE", "home/alice") if word in (run / "run.json").read_text()
    }
    assert main(["report", str(run)]) == 0
    assert "sk-CMDLINE" not in (run / "report.html").read_text()
    assert main(["report", str(run), "--with-paths"]) == 0
    assert "sk-CMDLINE" in (run / "report.html").read_text()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["lr: 0.1", "override 'lr=0.1'"], ["lr: 0.1", "override 'lr=0.1'"]),
        (["on: true", "override 'on=true'"], ["on: true", "override 'on=true'"]),
        (["mult: [1, 2]", "override 'mult=[1,2]'"], ["mult: [1, 2]", "override 'mult=[1,2]'"]),
        (["a: b", "override 'x={a: b}'"], ["a: …", "override 'x=…'"]),
        (["  use: adamw", "override 'x=adamw'"], ["  use: adamw", "override 'x=…'"]),
        (["a: 1", "/home/al ice/c.yaml:3:4"], ["a: 1", "c.yaml:3:4"]),
        (["a:", "sgm-core:b 1, ../alice/c.yaml:3:4"], ["a:", "sgm-core:b 1, c.yaml:3:4"]),
        (["a: 1", "default of sgm_core.x"], ["a: 1", "default of sgm_core.x"]),
        (["x:", "sgm-core:adamw 0.1.0, override 'x=adamw'"], ["x:", "sgm-core:adamw 0.1.0, override 'x=…'"]),
    ],
)
def test_of_the_command_line_numbers_and_names_of_components_stay(line, expected):
    assert shared_line(line) == expected


@pytest.mark.skipif(os.name != "posix", reason="links and pipes")
def test_no_link_is_followed_out_of_a_run_and_no_pipe_waited_for(tmp_path, capsys):
    mine = tmp_path / "mine"
    mine.write_text('{"step": 1, "loss": 0.123456789, "state": "root:x:0"}\n')
    for name in ("run.json", "config.yaml", "metrics.jsonl", "lock.json"):
        run = tmp_path / f"r-{name}"
        (run / "images").mkdir(parents=True)
        (run / ("config.yaml" if name != "config.yaml" else "run.json")).write_text("{}")
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(mine)
        Image.new("RGB", (8, 8)).save(run / "images" / "s-step-00000001.png")
        (run / "images" / "s-step-00000001.txt").symlink_to(mine)
        os.mkfifo(run / "images" / "t-step-00000001.txt")
        (run / "images" / "u-step-00000001.png").mkdir()
        main(["report", str(run)])
        assert "Traceback" not in capsys.readouterr().err
        page = (run / "report.html").read_text()
        assert "root:x" not in page
        assert "0.123456789" not in page
        assert not (run / "metrics.csv").exists()
    run = tmp_path / "pipe"
    run.mkdir()
    (run / "config.yaml").write_text("seed: 1\n")
    os.mkfifo(run / "metrics.jsonl")
    (run / "images").symlink_to(tmp_path / "r-run.json" / "images")
    Report(run).write(read_record(run))
    assert "data:image" not in (run / "report.html").read_text()


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "lock.json", "config.yaml"])
@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff\xfe\x00", b'{"step": ' + b"9" * 5000 + b"}\n", b"\r\x00,"])
def test_whatever_lies_in_a_run_a_page_is_written(tmp_path, capsys, name, content):
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    (tmp_path / name).write_bytes(content)
    assert main(["report", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").read_text().endswith("</html>\n")
    assert "Traceback" not in capsys.readouterr().err


def test_strange_numbers_are_drawn_or_left_out(tmp_path):
    rows = [{"step": 10**15 + i, "loss": 1e308 * (-1) ** i, "big": 10**400, "x" * 10_000: 1.0} for i in range(200)]
    rows += [{"step": 10**30, "loss": 1.0}, {"step": -5, "loss": 1.0}, {"step": True, "loss": 1.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    huge = {"total_steps": 10**300, "step": 10**300, "samples": 10**300, "seconds": 1e308, "updated": 1e308}
    pace = [[0, 0, 0], [10**300, 1, 1], [2, 2, 1e-300], [10**15, 10**15, 1]]
    sessions = [{"step": 0}, {"step": 10**300, "started": 1e308}]
    (tmp_path / "run.json").write_text(json.dumps({**huge, "state": "running", "pace": pace, "sessions": sessions}))
    record = read_record(tmp_path)
    page = Report(tmp_path).write(record).read_text()
    assert (record.total_steps, record.samples, record.pace) == (
        None,
        0,
        [[0, 0, 0], [2, 2, 1e-300], [10**15, 10**15, 1]],
    )
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    (loss,) = [chart for chart in data["charts"] if chart["title"] == "loss"]
    assert loss["series"][0]["x"][-1] == 10**15 + 199
    assert set(loss["series"][0]["y"]) == {None}
    assert len(page) < 200_000


def test_a_record_with_wrong_types_is_an_unknown_run(tmp_path):
    wrong = {name: [5, {"a": []}] for name in Record.__dataclass_fields__}
    (tmp_path / "run.json").write_text(json.dumps(wrong | {"environment": {"a": 5, "b": "c"}}))
    assert read_record(tmp_path).environment == {"b": "c"}
    Report(tmp_path).write(read_record(tmp_path))
