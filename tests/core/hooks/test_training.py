"""Options that plugins add to `sgm train`, and what they do in place of training."""

from argparse import Namespace

import pytest

import sgm_core as sgm
from sgm_core.cli.app import main
from sgm_core.errors import SgmError
from sgm_plugins.tools.dry_run.hooks import before_training

PLAN = """
@hookimpl
def train_options(parser): parser.add_argument("--plan", type=int, metavar="N", help="print the plan N times")

@hookimpl
def before_training(options, config, folder):
    if options.plan is None:
        return None
    for _ in range(options.plan):
        print(folder, config["trainer.max_steps"])
    return 7
"""


def test_an_option_is_in_the_help_and_its_exit_code_ends_the_command(make_plugin, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_plugin("sgm-a", PLAN)
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
    out = capsys.readouterr().out
    assert "--plan N" in out
    assert "--dry-run" in out
    assert main(["train", "digits", "--name", "a", "--plan", "2", "trainer.max_steps=5"]) == 7
    assert capsys.readouterr().out == "runs/a 5\nruns/a 5\n"
    assert not (tmp_path / "runs").exists()


def test_an_option_that_exists_already_names_the_plugin(make_plugin, capsys):
    make_plugin("sgm-a", PLAN.replace("--plan", "--name"))
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
    out, err = capsys.readouterr()
    assert "plugin sgm-a:main 1.0 is left out: train_options:" in err
    assert "--resume" in out


def test_a_dry_run_of_a_run_that_resumes_is_refused(tmp_path):
    options = Namespace(dry_run=True, resume=tmp_path / "a")
    with pytest.raises(SgmError, match=r"--dry-run needs a new run: give it a config, e.g. .*a.config.yaml"):
        before_training(options, sgm.load_config("digits"), options.resume)
    assert before_training(Namespace(dry_run=False, resume=None), sgm.load_config("digits"), tmp_path) is None
