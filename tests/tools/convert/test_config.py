"""`sgm convert config`: whole files, with their comments, their training settings and everything that is wrong."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml
from PIL import Image
from support.original_data import write_cifar10, write_mnist

import sgm_core as sgm
from sgm_core.cli.app import main
from sgm_core.config.tree import ConfigError
from sgm_plugins.tools.convert.config import convert_config

TOY = """\
# A toy: digits by class.
model:
  base_learning_rate: 1.0e-4  # of AdamW
  target: sgm.models.diffusion.DiffusionEngine
  params:
    use_ema: True
    ema_decay_rate: 0.99
    denoiser_config:
      target: sgm.modules.diffusionmodules.denoiser.Denoiser
      params:
        scaling_config:
          target: sgm.modules.diffusionmodules.denoiser_scaling.EDMScaling
          params:
            sigma_data: 1.0

    network_config:
      target: sgm.modules.diffusionmodules.openaimodel.UNetModel  # small
      params:
        in_channels: 1
        out_channels: 1
        model_channels: 32
        attention_resolutions: []
        num_res_blocks: 1
        # one level is enough
        channel_mult: [1]
        num_head_channels: 32
        num_classes: sequential
        adm_in_channels: 16
        spatial_transformer_attn_type: softmax-xformers  # quick

    conditioner_config:
      target: sgm.modules.GeneralConditioner
      params:
        emb_models:
          # the digit
          - is_trainable: True
            input_key: cls
            ucg_rate: 0.2
            target: sgm.modules.encoders.modules.ClassEmbedder
            params:
              embed_dim: 16
              n_classes: 10

    first_stage_config:
      target: sgm.models.autoencoder.IdentityFirstStage

    loss_fn_config:
      target: sgm.modules.diffusionmodules.loss.StandardDiffusionLoss
      params:
        loss_weighting_config:
          target: sgm.modules.diffusionmodules.loss_weighting.EDMWeighting
        sigma_sampler_config:
          target: sgm.modules.diffusionmodules.sigma_sampling.EDMSampling

    sampler_config:
      target: sgm.modules.diffusionmodules.sampling.EulerEDMSampler
      params:
        num_steps: 2
        discretization_config:
          target: sgm.modules.diffusionmodules.discretizer.EDMDiscretization
        guider_config:
          target: sgm.modules.diffusionmodules.guiders.VanillaCFG
          params: {scale: 3.0}  # '#' in a comment

data:
  target: sgm.data.mnist.MNISTLoader
  params:
    batch_size: 4
    num_workers: 0
    shuffle: True

lightning:
  modelcheckpoint:
    params:
      every_n_train_steps: 5000
      save_top_k: 2
      save_last: True
  callbacks:
    metrics_over_trainsteps_checkpoint:
      params:
        every_n_train_steps: 25000
    image_logger:
      target: main.ImageLogger
      params:
        disabled: False
        batch_frequency: 1000
        max_images: 4
        log_images_kwargs:
          N: 2
          n_rows: 8
  trainer:
    devices: 0,
    benchmark: True
    num_sanity_val_steps: 0
    accumulate_grad_batches: 1
    max_epochs: 10
"""


@pytest.fixture
def old(tmp_path):
    """Writes an old file."""

    def write(text: str, name: str = "old.yaml") -> Path:
        file = tmp_path / name
        file.write_text(text, encoding="utf-8")
        return file

    return write


def changed(before: str, after: str) -> str:
    assert before in TOY
    return TOY.replace(before, after)


def converted(*files: Path) -> dict:
    made = convert_config(files)
    assert made.gaps == []
    return yaml.safe_load(made.text)


def problems(file: Path) -> list[str]:
    return [str(problem).removeprefix(f"{file}:") for problem in convert_config([file]).gaps]


# --- a whole file --------------------------------------------------------------------------------------------------


def test_the_toy_config_becomes_ours(old):
    assert converted(old(TOY)) == {
        "seed": 23,
        "model": {
            "use": "diffusion",
            "denoiser": {"use": "continuous", "scaling": {"use": "edm", "sigma_data": 1.0}},
            "network": {
                "use": "unet",
                "in_channels": 1,
                "out_channels": 1,
                "model_channels": 32,
                "attention_resolutions": [],
                "num_res_blocks": 1,
                "channel_mult": [1],
                "num_head_channels": 32,
                "num_classes": "sequential",
                "adm_in_channels": 16,
            },
            "conditioner": {
                "use": "general",
                "embedders": [
                    {
                        "input_key": "cls",
                        "trainable": True,
                        "ucg_rate": 0.2,
                        "embedder": {"use": "class", "embed_dim": 16, "n_classes": 10},
                    }
                ],
            },
            "first_stage": "identity",
            "loss_fn": {"use": "standard", "weighting": "edm", "sigma_sampler": "edm"},
            "sampler": {
                "use": "euler_edm",
                "num_steps": 2,
                "discretization": "edm",
                "guider": {"use": "cfg", "scale": 3.0},
            },
            "ema": {"use": "ema", "decay": 0.99},
            "input_key": "image",
            "optimizer": {"use": "adamw", "lr": 1e-4},
        },
        "data": {"use": "mnist", "root": "data/mnist", "batch_size": 4, "num_workers": 0},
        "trainer": {
            "devices": 1,
            "benchmark": True,
            "num_sanity_val_steps": 0,
            "accumulate_grad_batches": 1,
            "max_epochs": 10,
            "callbacks": [
                {
                    "use": "model_checkpoint",
                    "every_n_train_steps": 25000,
                    "filename": "{epoch:06}-{step:09}",
                    "save_top_k": -1,
                    "save_weights_only": True,
                },
                {"use": "image_logger", "every_n_steps": 1000, "max_images": 2},
            ],
        },
        "checkpoint": {"every_n_steps": 5000, "keep_last": 2},
    }


def test_comments_of_the_file_stay_with_what_they_speak_of(old):
    text = convert_config([old(TOY)]).text
    for line in (
        "    use: unet  # small",
        "    # one level is enough\n    channel_mult: [1]",
        "      # the digit\n",
        "    lr: 0.0001  # of AdamW; was base_learning_rate",
        "# A toy: digits by class.\nmodel:",
        "# quick\n    # left out spatial_transformer_attn_type: softmax-xformers (torch picks",
        "    # '#' in a comment\n",
    ):
        assert line in text, line


def test_every_comment_of_the_file_is_somewhere(old):
    text = convert_config(
        [old(changed("        params: {scale", "        # odd place\n          params: {scale"))]
    ).text
    for comment in (
        "A toy: digits by class.",
        "of AdamW",
        "small",
        "one level is enough",
        "quick",
        "the digit",
        "odd place",
    ):
        assert text.count(comment) == 1, comment
    tail = convert_config([old(TOY + "\n# the end\n")]).text
    assert tail.endswith(
        f"# Comments of the old file on what is not here any more:\n# old.yaml:{TOY.count(chr(10)) + 2}: the end\n"
    )


def test_what_is_left_out_is_said(old):
    text = convert_config([old(TOY)]).text
    for note in (
        "left out spatial_transformer_attn_type: softmax-xformers",
        "left out shuffle: true",
        "left out save_last: true",
        "left out n_rows: 8",
        "left out disabled: false",
        "was '0,', numbers of GPUs",
        "was N of log_images_kwargs",
        "was metrics_over_trainsteps_checkpoint",
        "was jpg: our data modules say image",
        "nothing is downloaded",
    ):
        assert note in text, note


def test_several_files_merge_from_left_to_right(old):
    network = "model: {params: {network_config: {params: {model_channels: 64}}}}\n"
    more = network + "lightning: {trainer: {max_epochs: 3}}\n"
    made = converted(old(TOY), old(more, "more.yaml"))
    assert made["model"]["network"]["model_channels"] == 64
    assert made["trainer"]["max_epochs"] == 3


def test_interpolations_are_resolved(old):
    made = converted(old(changed("adm_in_channels: 16", "adm_in_channels: ${data.params.batch_size}")))
    assert made["model"]["network"]["adm_in_channels"] == 4
    assert problems(old(changed("adm_in_channels: 16", "adm_in_channels: ${data.nothing}")))


# --- the command ---------------------------------------------------------------------------------------------------


def test_the_command_writes_the_file_and_checks_it(old, tmp_path, capsys):
    new = tmp_path / "new.yaml"
    assert main(["convert", "config", str(old(TOY)), "--out", str(new)]) == 0
    assert "written, and `sgm check` finds it fine" in capsys.readouterr().out
    assert new.read_text().startswith(f"# sgm train {new}\n# Converted from old.yaml by `sgm convert config`")
    assert main(["check", str(new)]) == 0
    assert main(["convert", "config", str(old(TOY)), "--out", str(new)]) == 1
    assert "exists already" in capsys.readouterr().err


def test_without_out_it_goes_to_the_terminal(old, capsys):
    assert main(["convert", "config", str(old(TOY))]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"]["use"] == "diffusion"


def test_a_value_that_the_check_refuses_is_a_gap(old, tmp_path, capsys):
    new = tmp_path / "new.yaml"
    text = changed("attention_resolutions: []", "attention_resolutions: none")
    assert main(["convert", "config", str(old(text)), "--out", str(new)]) == 1
    err = capsys.readouterr().err
    line = text[: text.index("attention_resolutions")].count("\n") + 1
    assert err.startswith(f"{old(text)}:{line}:")
    assert "attention_resolutions: none: expected a list of integers" in err
    assert "attention_resolutions: ???  # was none (old.yaml:" in new.read_text()
    assert main(["check", str(new)]) == 1
    assert "attention_resolutions: this value must be given" in capsys.readouterr().err


def test_it_imports_no_torch_and_no_component(old):
    code = (
        "import sys\nfrom sgm_core.cli.app import main\nmain(['convert', 'config', sys.argv[1]])\n"
        "print([m for m in sys.modules if m in ('torch', 'lightning')"
        " or m.startswith('sgm_plugins.') and not m.startswith('sgm_plugins.tools')])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(old(TOY))], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_toy_config_trains_and_samples(old, tmp_path, monkeypatch):
    train_two_steps(old(TOY), tmp_path, monkeypatch)


def train_two_steps(file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sgm_core.runs.run import start_run

    monkeypatch.chdir(folder)
    write_mnist(folder / "data" / "mnist")
    write_cifar10(folder / "data" / "cifar10")
    new = folder / "new.yaml"
    assert main(["convert", "config", str(file), "--out", str(new)]) == 0
    overrides = ["trainer.max_steps=2", "trainer.limit_val_batches=1", "data.batch_size=4", "data.num_workers=0",
                 "model.sampler.num_steps=2", "trainer.accelerator=cpu"]  # fmt: skip
    run = start_run(sgm.load_config(new, overrides=overrides), folder, "run")
    assert run.train() == 0
    engine = sgm.load_engine(run.folder)
    assert engine.global_step == 0  # a fresh engine: only its weights were trained
    assert engine.generate({"cls": [1, 2]}, num_steps=2).isfinite().all()


# --- what is wrong -------------------------------------------------------------------------------------------------


def test_all_unknown_targets_are_named_with_their_lines_in_one_run(old, capsys):
    text = changed("sgm.modules.diffusionmodules.openaimodel.UNetModel", "my.nets.UNet")
    text = text.replace("sgm.data.mnist.MNISTLoader", "my.data.Loader").replace("main.ImageLogger", "my.Logger")
    text = text.replace("loss_weighting.EDMWeighting", "loss_weighting.EDMWeightin")
    found = problems(old(text))
    lines = [n for n, line in enumerate(text.splitlines(), 1) if "my." in line or "EDMWeightin" in line]
    assert [int(problem.partition(":")[0]) for problem in found] == lines
    for problem, expected in zip(found, ("my.nets.UNet", "EDMWeightin", "my.data.Loader", "my.Logger"), strict=True):
        assert "unknown target" in problem
        assert expected in problem
    assert "Did you mean 'EDMWeighting'?" in found[1]
    assert main(["convert", "config", str(old(text))]) == 1
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("in_channels: 1", "in_chanels: 1", "in_chanels: this parameter is not known. Did you mean 'in_channels'?"),
        ("shuffle: True", "shufle: True", "data.params.shufle: this loader takes batch_size, num_workers and shuffle"),
        (
            "max_epochs: 10",
            "max_epoch: 10",
            "max_epoch: Lightning's trainer has no 'max_epoch'. Did you mean 'max_epochs'?",
        ),
        ("save_last: True", "save_sometimes: True", "this is not known of a checkpoint"),
        ("batch_frequency: 1000", "batch_frequenzy: 1", "batch_frequenzy: this parameter is not known"),
        ("  modelcheckpoint:\n", "  modelchekpoint:\n", "lightning.modelchekpoint: this is not known here"),
        ("data:\n", "datas:\n", "datas: a config of generative-models has model, data and lightning"),
        ("  params: {scale: 3.0}", "  params: [3]", "a mapping of parameters was expected"),
    ],
)
def test_nothing_is_dropped_in_silence(old, before, after, message):
    assert any(message in problem for problem in problems(old(changed(before, after))))


@pytest.mark.parametrize("text", ["", "a: [", "- 1\n", "model: 3\n", "model: {target: 3}\n", "model: {}\n", "model:\n"])
def test_a_file_that_is_no_config_is_an_error_without_traceback(old, text, capsys):
    assert main(["convert", "config", str(old(text))]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"{old(text)}:")
    assert "Traceback" not in err


def test_a_missing_file_is_named_with_near_ones(old, capsys):
    file = old(TOY)
    assert main(["convert", "config", str(file.with_name("odl.yaml"))]) == 1
    assert "no such file. Did you mean" in capsys.readouterr().err


def test_only_configs_can_be_converted_so_far(capsys):
    with pytest.raises(SystemExit) as error:
        main(["convert", "dataset", "x"])
    assert error.value.code == 2


# --- learning rate, averages, inputs -------------------------------------------------------------------------------


def test_an_optimizer_of_its_own_gets_the_learning_rate(old):
    optimizer = (
        "    optimizer_config:\n      target: torch.optim.Adam\n      params: {betas: [0.5, 0.9]}\n    use_ema: True\n"
    )
    model = converted(old(changed("    use_ema: True\n", optimizer)))["model"]
    assert model["optimizer"] == {"use": "adam", "betas": [0.5, 0.9], "lr": 1e-4}


def test_a_scaled_learning_rate_is_multiplied_out(old):
    text = changed("  base_learning_rate: 1.0e-4  # of AdamW\n", "  base_learning_rate: 1.0e-4\n  scale_lr: True\n")
    text = text.replace("devices: 0,", "devices: 0,1,2").replace(
        "accumulate_grad_batches: 1", "accumulate_grad_batches: 2"
    )
    assert converted(old(text))["model"]["optimizer"]["lr"] == pytest.approx(1e-4 * 4 * 3 * 2)
    assert "was base_learning_rate 0.0001 times 24, for scale_lr" in convert_config([old(text)]).text
    without = text[: text.index("data:\n")]
    assert any("scale_lr: the rate is scaled by the size of a batch" in problem for problem in problems(old(without)))


def test_a_rate_that_is_not_scaled_stays(old):
    text = changed("  base_learning_rate: 1.0e-4  # of AdamW\n", "  base_learning_rate: 1.0e-4\n  scale_lr: False\n")
    assert converted(old(text))["model"]["optimizer"]["lr"] == 1e-4


def test_without_a_rate_no_optimizer_is_written(old):
    assert "optimizer" not in converted(old(changed("  base_learning_rate: 1.0e-4  # of AdamW\n", "")))["model"]


def test_no_average_unless_it_was_asked_for(old):
    text = convert_config([old(changed("use_ema: True", "use_ema: False"))]).text
    assert "ema" not in yaml.safe_load(text)["model"]
    assert "left out ema_decay_rate: 0.99 (use_ema was not true)" in text


def test_the_default_average_has_the_default_decay(old):
    assert converted(old(changed("    ema_decay_rate: 0.99\n", "")))["model"]["ema"] == "ema"


def test_without_data_the_images_are_called_as_they_were(old):
    start = TOY[: TOY.index("data:\n")]
    assert converted(old(start))["model"]["input_key"] == "jpg"
    named = start.replace("    use_ema: True\n", "    use_ema: True\n    input_key: pixels\n")
    assert converted(old(named))["model"]["input_key"] == "pixels"


def test_conditioning_that_is_none_is_left_out(old):
    start, end = TOY.index("    conditioner_config:"), TOY.index("    first_stage_config:")
    text = convert_config([old(TOY[:start] + "    conditioner_config: __is_unconditional__\n" + TOY[end:])]).text
    assert "conditioner" not in yaml.safe_load(text)["model"]
    assert "conditioner_config was __is_unconditional__: none" in text


def test_extra_inputs_of_the_network_become_slots(old):
    keys = "        batch2model_keys: [image_only_indicator, num_video_frames]\n        loss_weighting_config:"
    text = convert_config([old(changed("        loss_weighting_config:", keys))]).text
    slots = yaml.safe_load(text)["model"]["conditioner"]["embedders"]
    assert slots[1] == {"input_key": "image_only_indicator", "output": "image_only_indicator", "embedder": "identity"}
    assert len(slots) == 2
    assert "num_video_frames was in each batch: give it here" in text


# --- data and trainer ----------------------------------------------------------------------------------------------

PIPELINE = """\
data:
  target: sgm.data.dataset.StableDataModuleFromConfig
  params:
    train:
      datapipeline:
        urls:
          # the root
          - DATA
          - MORE
        pipeline_config:
          shardshuffle: 10000 # mix
        decoders: [pil]
        postprocessors:
          - target: sdata.mappers.TorchVisionImageTransforms
            params:
              key: jpg
              transforms:
                - target: torchvision.transforms.Resize
                  params: {size: 64, interpolation: 3}
                - target: torchvision.transforms.ToTensor
          - target: sdata.mappers.Rescaler
      loader:
        batch_size: 8
        num_workers: 2
        prefetch_factor: 4
    validation: {loader: {batch_size: 1}}
    skip_val_loader: True
"""


def with_data(data: str) -> str:
    return TOY[: TOY.index("data:\n")] + data + TOY[TOY.index("lightning:\n") :]


def test_a_pipeline_over_tar_files_stays_one(old):
    text = convert_config([old(with_data(PIPELINE))]).text
    assert yaml.safe_load(text)["data"] == {
        "use": "webdataset",
        "shards": ["DATA/**/*.tar", "MORE/**/*.tar"],
        "size": 64,
        "batch_size": 8,
        "num_workers": 2,
        "columns": {"cls": "cls"},
    }
    left_out = ("decoders", "validation", "pipeline_config", "skip_val_loader", "interpolation: 3")
    for note in ("# the root\n", "# mix\n", *(f"left out {name}" for name in (*left_out, "loader.prefetch_factor"))):
        assert note in text, note


def test_captions_and_sizes_are_given_where_the_model_reads_them(old):
    text = with_data(PIPELINE).replace("input_key: cls", "input_keys: [txt, original_size_as_tuple]")
    data = converted(old(text))["data"]
    assert (data["columns"], data["sizes"]) == ({"txt": "txt"}, True)


def test_urls_that_are_files_stay_as_they_are(old):
    text = with_data(PIPELINE).replace("- DATA", '- "a/{00..07}.tar"').replace("- MORE", '- "b/*.tar"')
    assert converted(old(text))["data"]["shards"] == ["a/{00..07}.tar", "b/*.tar"]


def test_the_tar_files_of_an_old_data_set_are_read(old, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, labels in (("DATA/deep", (3, 5)), ("MORE", (7,))):
        Path(folder).mkdir(parents=True)
        with tarfile.open(f"{folder}/0.tar", "w") as tar:
            for label in labels:
                Image.new("RGB", (80, 70)).save("image.jpg")
                Path("label").write_text(str(label))
                tar.add("image.jpg", f"{label}.jpg")
                tar.add("label", f"{label}.cls")
    Path("new.yaml").write_text(convert_config([old(with_data(PIPELINE))]).text)
    overrides = ["data.batch_size=3", "data.num_workers=0"]
    (batch,) = sgm.load_config("new.yaml", overrides=overrides).build("data").train_dataloader()
    assert batch["image"].shape == (3, 3, 64, 64)
    assert sorted(batch["cls"].tolist()) == [3, 5, 7]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("sdata.mappers.Rescaler", "my.Mapper", "unknown target 'my.Mapper': webdataset has no such step"),
        ("torchvision.transforms.ToTensor", "my.Blur", "unknown target 'my.Blur'"),
        ("        decoders: [pil]", "        decoder: [pil]", "a datapipeline has urls"),
        ("    train:", "    trian:", "StableDataModuleFromConfig takes train"),
        ("      loader:\n", "      loadr:\n", "a part of the data has datapipeline and loader"),
        ("sgm.data.dataset.StableDataModuleFromConfig", "sgm.x.Other", "unknown target 'sgm.x.Other'"),
    ],
)  # fmt: skip
def test_a_pipeline_that_does_more_is_an_error(old, before, after, message):
    assert before in PIPELINE
    assert any(message in problem for problem in problems(old(with_data(PIPELINE.replace(before, after)))))


def trainer(old, extra: str) -> dict:
    return converted(old(TOY + extra))["trainer"]


def test_strategies_get_their_names(old):
    target = "pytorch_lightning.strategies.DDPStrategy"
    ddp = f"  strategy:\n    target: {target}\n    params: {{find_unused_parameters: True}}\n"
    assert trainer(old, ddp)["strategy"] == "ddp_find_unused_parameters_true"
    assert trainer(old, ddp.replace("True", "False"))["strategy"] == "ddp"
    assert any("write its name" in problem for problem in problems(old(TOY + ddp.replace("DDPStrategy", "MyStrategy"))))


@pytest.mark.parametrize(("devices", "ours"), [("0,", 1), ("'0,3'", 2), ("2", 2), ("auto", "auto"), ("[0, 1]", [0, 1])])
def test_devices_keep_their_number(old, devices, ours):
    assert converted(old(changed("devices: 0,", f"devices: {devices}")))["trainer"]["devices"] == ours


def test_arguments_that_lightning_dropped_are_left_out_with_the_way(old):
    text = convert_config(
        [old(TOY + "    progress_bar_refresh_rate: 1\n    resume_from_checkpoint: x\n    gpus: 2\n")]
    ).text
    assert yaml.safe_load(text)["trainer"]["devices"] == 2
    assert "left out progress_bar_refresh_rate: 1" in text
    assert "left out resume_from_checkpoint: x (sgm train --resume RUN)" in text


def test_a_disabled_image_logger_is_left_out(old):
    text = convert_config([old(changed("disabled: False", "disabled: True"))]).text
    assert [c["use"] for c in yaml.safe_load(text)["trainer"]["callbacks"]] == ["model_checkpoint"]
    assert "left out image_logger" in text


def test_callbacks_without_an_image_logger_get_the_one_that_main_had(old):
    start, end = TOY.index("    image_logger:"), TOY.index("  trainer:")
    text = TOY[:start] + "    lr:\n      target: pytorch_lightning.callbacks.LearningRateMonitor\n" + TOY[end:]
    assert converted(old(text))["trainer"]["callbacks"][1:] == ["lr_monitor", {"use": "image_logger", "max_images": 4}]


# --- the ancestor's own files --------------------------------------------------------------------------------------

LEGACY = next(
    (
        found
        for parent in Path(__file__).resolve().parents
        if (found := parent / "shared" / "reference" / "legacy_configs").is_dir()
    ),
    Path("no legacy configs here"),
)
FILES = sorted(LEGACY.glob("*.yaml"))
TOYS = [file for file in FILES if "MNISTLoader" in file.read_text() or "CIFAR10Loader" in file.read_text()]


@pytest.mark.skipif(not FILES, reason="the ancestor's configs are not in the repository")
def test_the_files_of_the_ancestor_are_found():
    assert len(FILES) >= 13
    assert len(TOYS) >= 5


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_file_of_the_ancestor_converts_and_passes_the_check(file, tmp_path):
    new = tmp_path / "new.yaml"
    new.write_text(convert_config([file]).text, encoding="utf-8")
    assert sgm.load_config(new).components


@pytest.mark.parametrize("file", TOYS, ids=lambda file: file.stem)
def test_each_toy_of_the_ancestor_trains(file, tmp_path, monkeypatch):
    train_two_steps(file, tmp_path, monkeypatch)


# --- anything else --------------------------------------------------------------------------------------------------


def places(tree: object, path: tuple = ()) -> list[tuple]:
    """The path of every value in a tree."""
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path, *(place for key, child in children for place in places(child, (*path, key)))]


@pytest.mark.parametrize("junk", [3, [{"x": 1}], {"params": None}], ids=str)
def test_whatever_stands_in_a_place_there_is_no_traceback(old, junk):
    """Either it is told, or it reaches the new config, where the check tells it."""
    for path in places(yaml.safe_load(TOY))[1:]:
        tree = yaml.safe_load(TOY)
        parent = tree
        for key in path[:-1]:
            parent = parent[key]
        parent[path[-1]] = junk
        try:
            text = convert_config([old(yaml.safe_dump(tree))]).text
        except ConfigError as error:
            text = f"model: {len(error.problems)}"
        assert yaml.safe_load(text)["model"]
