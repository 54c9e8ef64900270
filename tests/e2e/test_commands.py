"""The commands as a user meets them: what they write, what they print, and how they end."""

import json
import os
import signal
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

from sgm_core.cli.app import main

FAST = [
    "model.network.channel_mult=[1]",
    "model.sampler.num_steps=2",
    "trainer.limit_val_batches=1",
    "trainer.log_every_n_steps=1",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "data.batch_size=8",
]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # the commands change it


@pytest.fixture
def sgm(capsys):
    """Runs a command in this process: (exit code, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(arguments)
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


def metrics(run: Path, key: str = "loss") -> dict[int, float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row[key] for row in rows if key in row}


# --- train ---------------------------------------------------------------------------------------------------------


def test_train_writes_the_whole_run_folder(sgm):
    code, _, err = sgm("train", "digits", *FAST, "trainer.max_steps=4", "checkpoint.every_n_steps=2", "--name", "a")
    assert code == 0, err
    run = Path("runs/a")
    assert {path.name for path in run.iterdir()} >= {
        "config.yaml", "lock.json", "metrics.jsonl", "images", "checkpoints", "model.safetensors",
    }  # fmt: skip
    assert {path.name for path in (run / "checkpoints").iterdir()} == {
        "last.ckpt", "step-00000002.ckpt", "step-00000004.ckpt",
        "step-00000002.ckpt.sha256.json", "step-00000004.ckpt.sha256.json",
    }  # fmt: skip
    assert sorted(metrics(run)) == [0, 1, 2, 3]
    assert metrics(run, "lr_abs")[0] == pytest.approx(2e-3)
    samples = sorted((run / "images").glob("samples-*.png"))
    assert samples[-1].name == "samples-step-00000004.png"
    assert str(samples[-1]) in err
    assert Image.open(samples[-1]).size[0] >= 64
    assert not list(run.rglob("*.tmp"))


def test_the_saved_config_is_the_run_again(sgm):
    """B42: from a folder of any name; the reference wanted one called "configs" in the path."""
    assert sgm("train", "digits", *FAST, "trainer.max_steps=3", "--name", "first")[0] == 0
    assert sgm("train", "runs/first/config.yaml", "--name", "second")[0] == 0
    assert metrics(Path("runs/first")) == metrics(Path("runs/second"))


def test_the_seed_decides_the_run(sgm):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        sgm("train", "digits", *FAST, "trainer.max_steps=2", f"seed={seed}", "--name", name)
    losses = {name: list(metrics(Path("runs") / name).values()) for name in "abc"}
    assert losses["a"] == losses["b"] != losses["c"]


def test_old_checkpoints_go_and_the_last_stays(sgm):
    arguments = ("trainer.max_steps=5", "checkpoint.every_n_steps=1", "checkpoint.keep_last=2", "trainer.callbacks=[]")
    assert sgm("train", "digits", *FAST, *arguments, "--name", "a")[0] == 0
    checkpoints = Path("runs/a/checkpoints")
    assert sorted(path.name for path in checkpoints.iterdir()) == [
        "last.ckpt", "step-00000004.ckpt", "step-00000004.ckpt.sha256.json",
        "step-00000005.ckpt", "step-00000005.ckpt.sha256.json",
    ]  # fmt: skip
    assert torch.load(checkpoints / "last.ckpt", weights_only=True)["global_step"] == 5


def test_resume_goes_on_from_the_last_checkpoint_and_keeps_one_line_per_step(sgm):
    """B42: a folder is a path of the system, not a text to be split at "/"."""
    fast = [*FAST, "trainer.callbacks=[]"]
    assert sgm("train", "digits", *fast, "trainer.max_steps=3", "--name", "a")[0] == 0
    before = metrics(Path("runs/a"))
    code, _, err = sgm("train", "--resume", "runs/a", "trainer.max_steps=6")
    assert code == 0, err
    after = metrics(Path("runs/a"))
    assert sorted(after) == list(range(6))
    assert {step: after[step] for step in before} == before
    assert "max_steps: 6" in Path("runs/a/config.yaml").read_text()
    saved = torch.load("runs/a/checkpoints/last.ckpt", weights_only=True)
    assert saved["state_dict"]["model_ema.num_updates"] == 6  # the average went on, it did not start again


def test_callbacks_and_loggers_of_the_config_are_used(sgm):
    code, _, err = sgm(
        "train", "digits", *FAST, "trainer.max_steps=2", "trainer.logger=[csv]", "trainer.callbacks=[lr_monitor]",
        "--name", "a",
    )  # fmt: skip
    assert code == 0, err
    assert list(Path("runs/a").rglob("metrics.csv"))
    assert not Path("runs/a/images").exists()  # the list of callbacks is what the config says


def test_bad_files_of_an_image_folder_are_skipped_counted_and_listed_in_one_line(tmp_path, sgm_forked):
    for number in range(6):
        folder = tmp_path / "photos" / f"class-{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (12, 12), 40 * number).save(folder / f"{number}.png")
    (tmp_path / "photos" / "class-0" / "broken.png").write_bytes(b"no image")
    data = "data={use: image_folder, root: photos, size: 8, channels: 1, labels: true, batch_size: 2}"
    arguments = [*[a for a in FAST if not a.startswith("data.")], data, "trainer.max_steps=4", "--name", "a"]
    done = sgm_forked("train", "digits", *arguments)
    assert done.wait() == 0, done.err
    listed = [line for line in done.err.splitlines() if "cannot be used" in line]
    assert len(listed) == 1, done.err
    assert listed[0].startswith("warning: image folder photos: 1 of 7 image files")
    assert "class-0/broken.png" in listed[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits", "--name", "../x"], "plain folder name"),
        (["digits", "--name", "a", "--runs", "file"], "cannot be written"),
        (["digits", "data=null", "--name", "a"], "no data"),
        (["digits", "trainer.max_steps=1.5", "--name", "a"], "override 'trainer.max_steps=1.5'"),
        (["digits", "trainer.default_root_dir=elsewhere", "--name", "a"], "has no 'default_root_dir'"),
        (["digits", "trainer.accelerator=tpu", "--name", "a"], "(Trainer)"),
        (["digits", "trainer.precision=17", "--name", "a"], "trainer.precision"),
        (["nothing.yaml"], "nothing.yaml: no such file"),
        (["digitz"], "Did you mean 'digits'?"),
        (["--resume", "nowhere"], "not a run folder"),
        (["digits", "--resume", "nowhere"], "overrides only"),
        ([], "no config given"),
        (
            ["digits", "data={use: image_folder, root: empty, size: 8, channels: 1, labels: true}", "--name", "a"],
            "empty",
        ),
        (
            ["digits", "data={use: image_folder, root: missing, size: 8, channels: 1, labels: true}", "--name", "a"],
            "missing",
        ),
        (["digits", "data.batch_size=5000", "--name", "a"], "5000"),
        (["digits", *FAST, "model.conditioner.embedders[0].embedder.n_classes=5", "--name", "a"], "embedders[0]"),
    ],
)
def test_wrong_input_to_train_is_one_message_and_leaves_nothing_behind(sgm, arguments, message):
    Path("file").touch()
    Path("empty").mkdir()
    code, _, err = sgm("train", *arguments)
    assert code == 1
    assert message in err
    assert "Traceback" not in err
    assert not any(Path("runs").glob("*"))


def test_a_taken_name_is_refused_and_the_old_run_stays(sgm):
    Path("runs/a").mkdir(parents=True)
    Path("runs/a/notes.txt").write_text("mine")
    code, _, err = sgm("train", "digits", "--name", "a")
    assert (code, Path("runs/a/notes.txt").read_text()) == (1, "mine")
    assert "runs/a exists already and is no run: choose another --name" in err


@pytest.mark.skipif(os.name != "posix", reason="SIGINT to a child process")
@pytest.mark.essential
def test_ctrl_c_finishes_the_step_saves_and_exits_with_130(sgm, sgm_started):
    arguments = ["train", "digits", *FAST, "trainer.max_steps=100000", "trainer.callbacks=[]", "--name", "a"]
    run = Path("runs/a")
    child = sgm_started(*arguments)
    child.wait_for((run / "metrics.jsonl").exists)
    child.send_signal(signal.SIGINT)
    assert child.wait() == 130, child.err
    assert "Traceback" not in child.err
    assert "--resume runs/a" in child.err
    step = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert step >= 1
    assert not list(run.rglob("*.tmp"))
    assert sgm("train", "--resume", "runs/a", f"trainer.max_steps={step + 1}")[0] == 0


# --- sample --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    arguments = ["trainer.max_steps=2", "trainer.callbacks=[]", "--runs", str(folder), "--name", "a"]
    assert main(["train", "digits", *FAST, *arguments]) == 0
    return folder / "a"


def test_sample_writes_an_image_per_seed_and_a_grid(sgm, trained):
    code, out, err = sgm("sample", str(trained), "--cond", "cls=[0,1,2]", "-n", "5", "--seed", "7", "--out", "drawn")
    assert code == 0, err
    names = {f"seed-{seed:06d}.png" for seed in range(7, 12)} | {"grid.png"}
    assert {path.name for path in Path("drawn").iterdir()} == names
    assert Image.open("drawn/seed-000007.png").size == (8, 8)
    assert "drawn/grid.png" in out


def test_a_deleted_image_does_not_make_the_next_ones_overwrite_others(sgm, trained):
    """B43: the reference numbered images by how many there were. Ours have the names of their seeds."""
    draw = ("sample", str(trained), "--cond", "cls=3", "--out", "drawn", "--seed")
    assert sgm(*draw, "0", "-n", "3")[0] == 0
    kept = {path: path.read_bytes() for path in Path("drawn").glob("seed-*") if path.name != "seed-000000.png"}
    assert len(kept) == 2
    Path("drawn/seed-000000.png").unlink()
    assert sgm(*draw, "7")[0] == 0
    assert {path: path.read_bytes() for path in kept} == kept
    assert Path("drawn/seed-000007.png").is_file()


@pytest.mark.parametrize("model", ["model.safetensors", "checkpoints/last.ckpt", "."])
def test_sample_reads_a_run_a_checkpoint_and_an_export_alike(sgm, trained, model):
    for name in (".", model):
        out = f"from-{name.replace('/', '-')}"
        assert sgm("sample", str(trained / name), "--cond", "cls=3", "--out", out)[0] == 0
    one, other = (Image.open(f"from-{name.replace('/', '-')}/seed-000000.png").tobytes() for name in (".", model))
    assert one == other


def test_steps_seed_and_batch_size_do_what_they_say(sgm, trained):
    def draw(name: str, *arguments: str) -> bytes:
        assert sgm("sample", str(trained), "--cond", "cls=3", "--out", name, *arguments)[0] == 0
        return Image.open(min(Path(name).glob("seed-*.png"))).tobytes()

    base = draw("a")
    assert draw("b") == base
    assert draw("c", "--steps", "9") != base
    assert draw("d", "--seed", "1") != base
    assert draw("e", "-n", "3", "--batch-size", "1") == base


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cond", "cls=12"], "12"),
        (["--cond", "cls=-1"], "-1"),
        (["--cond", "cls=seven"], "seven"),
        (["--cond", "class=1"], "Did you mean 'cls'?"),
        (["--cond", "cls"], "KEY=VALUE"),
        ([], "--cond cls=VALUE"),
        (["--cond", "cls=1", "-n", "0"], "at least 1"),
        (["--cond", "cls=1", "--steps", "0"], "at least 1"),
        (["--cond", "cls=1", "--device", "warp9"], "warp9"),
    ],
)
def test_wrong_input_to_sample_is_one_message_and_draws_nothing(sgm, trained, arguments, message):
    code, _, err = sgm("sample", str(trained), "--out", "drawn", *arguments)
    assert code == 1
    assert message in err
    assert "Traceback" not in err
    assert not Path("drawn").exists()


def test_sample_of_no_checkpoint_says_what_was_looked_for(sgm):
    assert "no such checkpoint" in sgm("sample", "nothing.ckpt")[2]
    code, _, err = sgm("sample", ".")
    assert code == 1
    assert "last.ckpt" in err


# --- check, list, show ---------------------------------------------------------------------------------------------

EIGHT = """\
seed: 23
model:
  use: diffusion
  input_keys: image
  network: {use: unett, in_channels: 1}
  denoiser: {use: continuous, scaling: {use: edm, sigma_data: "0.5"}}
  first_stage: identity
  conditioner:
    use: general
    embedders:
      - {input_key: cls, trainable: yes, ucg_rate: 1.2, embedder: {use: class, n_classes: 10}}
  loss_fn: {use: standard, sigma_sampler: edm, weighting: {use: edm}}
  sampler: {use: euler_edm, num_steps: 50, discretization: edm, guider: {use: cgf, scale: 3.0}}
data: {use: digits}
trainer: {max_step: 2000}
"""


def test_eight_planted_errors_are_all_reported_with_their_lines(sgm):
    Path("eight.yaml").write_text(EIGHT)
    code, out, err = sgm("check", "eight.yaml")
    assert (code, out) == (1, "")
    found = [line for line in err.splitlines() if line.startswith("eight.yaml:")]
    assert [line.split(" ")[0] for line in found] == [
        "eight.yaml:4:3",  # input_keys
        "eight.yaml:5:18",  # unett
        "eight.yaml:6:63",  # "0.5"
        "eight.yaml:11:37",  # trainable: yes
        "eight.yaml:11:52",  # ucg_rate: 1.2
        "eight.yaml:11:67",  # embed_dim is missing
        "eight.yaml:13:79",  # cgf
        "eight.yaml:15:11",  # max_step
    ]
    for hint in ("'input_key'", "'unet'", "'cfg'", "'max_steps'", "embed_dim", "without quotes"):
        assert hint in err, hint


def test_check_of_a_good_config_says_so(sgm):
    code, out, err = sgm("check", "digits", "trainer.max_steps=5")
    assert (code, err) == (0, "")
    assert "fine" in out


def test_list_and_show_tell_what_is_there(sgm):
    code, out, _ = sgm("list", "samplers")
    assert code == 0
    assert {"euler_edm", "heun_edm"} <= set(out.split())
    rows = json.loads(sgm("list", "--json")[1])
    assert {"kind": "networks", "name": "unet", "qualified": "sgm-core:unet"}.items() <= next(
        row for row in rows if row["name"] == "unet"
    ).items()
    shown = json.loads(sgm("show", "samplers/euler_edm", "--json")[1])
    assert {parameter["name"]: parameter["default"] for parameter in shown["parameters"]}["s_churn"] == "0.0"
    text = sgm("show", "samplers/euler_edm")[1]
    assert "s_churn" in text
    assert "euler_edm.py:" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "sampler"], "Did you mean 'samplers'?"),
        (["show", "samplers/euler"], "euler_edm"),
        (["show", "euler_edm"], "KIND/NAME"),
        (["check", "--plugins", "sometimes", "digits"], "SGM_PLUGINS"),
        (["check", "--code", "nothing.py", "digits"], "nothing.py"),
    ],
)
def test_wrong_input_to_the_small_commands(sgm, arguments, message, monkeypatch):
    from sgm_core.registry import index

    monkeypatch.setenv("SGM_PLUGINS", "")  # --plugins sets it; this puts it back
    index.refresh()
    code, _, err = sgm(*arguments)
    monkeypatch.setenv("SGM_PLUGINS", "")
    index.refresh()
    assert code == 1
    assert message in err
    assert "Traceback" not in err


@pytest.mark.usefixtures("register")  # what is registered is forgotten
def test_code_registers_components_of_a_local_file(sgm):

    Path("mine.py").write_text(
        "import sgm_core as sgm\n"
        "from sgm_plugins.weightings import UnitWeighting\n"
        "@sgm.register('weightings', 'from_a_file')\n"
        "class Mine(UnitWeighting): ...\n"
    )
    assert sgm("check", "digits", "model.loss_fn.weighting=from_a_file")[0] == 1
    assert sgm("check", "digits", "model.loss_fn.weighting=from_a_file", "--code", "mine.py")[0] == 0


def test_usage_errors_exit_with_2(sgm):
    for arguments in ([], ["trian"], ["check", "--nonsense", "digits"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
