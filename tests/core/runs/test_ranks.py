"""What the processes of a run agree on before they are connected, and in a SLURM job."""

import warnings

import pytest
from lightning.pytorch.utilities import rank_zero_only

from sgm_core.cli.app import main
from sgm_core.errors import SgmError
from sgm_core.runs.command import agreed_name
from sgm_core.runs.ranks import agreed
from sgm_core.runs.run import job_environment

SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in ("SGM_RUN_NAME", "SGM_A", "TORCHELASTIC_RUN_ID", *SLURM):
        monkeypatch.setenv(name, "")  # so that what is set meanwhile is undone
        monkeypatch.delenv(name)


def test_children_know_what_the_first_process_decided(monkeypatch):
    assert agreed("a", lambda: "first", pytest.fail) == "first"
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert agreed("a", pytest.fail, pytest.fail) == "first"
    monkeypatch.delenv("SGM_A")
    assert agreed("a", pytest.fail, lambda: "itself") == "itself"


def test_a_process_that_nothing_connects_to_the_first_asks_for_a_name(monkeypatch):
    assert agreed_name(["configs/digits.yaml"]).startswith("digits-20")
    monkeypatch.delenv("SGM_RUN_NAME")
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    with pytest.raises(SgmError, match="--name NAME"):
        agreed_name(["configs/digits.yaml"])


def test_in_a_slurm_job_the_run_has_its_number_and_lightning_puts_nothing_in_the_queue(monkeypatch, tmp_path, capsys):
    assert job_environment() == []
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    assert agreed_name(["digits"]) == "digits-job-4711"
    [environment] = job_environment()
    assert not environment.auto_requeue
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    tiny = ["model.network.channel_mult=[1]", "data.batch_size=8", "trainer.max_steps=1", "trainer.callbacks=[]"]
    still = ["trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "trainer.limit_val_batches=0"]
    assert main(["train", "digits", *tiny, *still]) == 0
    assert (tmp_path / "runs" / "digits-job-4711" / "model.safetensors").exists()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")  # torchrun within the job
    assert job_environment() == []
