"""Configs of latent diffusion: one engine's parameters there, denoiser, loss, sampler and conditioner here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support.old_configs import LAYOUT, STABLE, UNET
from support.original_data import write_mnist

import sgm_core as sgm
from sgm_core.cli.app import main
from sgm_core.config.tree import Origin, Problems, from_plain
from sgm_plugins.tools.convert.config import Converted, convert_config
from sgm_plugins.tools.convert.legacy import Comments
from sgm_plugins.tools.convert.packages import MODULES
from sgm_plugins.tools.convert.rewriter import Rewriter
from sgm_plugins.tools.convert.tables import all_rules

LEVELS = {"use": "legacy_ddpm", "linear_start": 0.00085, "linear_end": 0.012}


@pytest.fixture
def convert(tmp_path):
    """Converts a model, with other parameters of its engine; None leaves one out."""

    def make(model: dict[str, Any] = STABLE, other: dict[str, Any] | None = None, **params: Any) -> Converted:
        merged = {key: value for key, value in {**model["params"], **params}.items() if value is not None}
        file = tmp_path / "old.yaml"
        file.write_text(yaml.safe_dump({"model": {**model, "params": merged}, **(other or {})}))
        return convert_config([file])

    return make


def model_of(made: Converted) -> dict[str, Any]:
    assert made.gaps == []
    return yaml.safe_load(made.text)["model"]


def test_stable_diffusion_is_what_our_own_config_of_it_is(convert, tmp_path):
    made = convert()
    model = model_of(made)
    ours = sgm.load_config("sd_1_5")["model"]
    own_network = {**ours["network"], "num_heads": 8}
    assert model["network"] == own_network
    assert model["denoiser"] == {"use": "discrete", "scaling": "eps", "num_idx": 1000, "discretization": LEVELS}
    assert model["conditioner"]["embedders"] == [{"input_key": "txt", "trainable": False, "embedder": "clip_text"}]
    assert model["loss_fn"] == {
        "use": "standard",
        "sigma_sampler": {"use": "discrete", "num_idx": 1000, "discretization": LEVELS},
        "weighting": "eps",
    }
    assert model["sampler"]["guider"] == {"use": "cfg", "scale": ours["sampler"]["guider"]["scale"]}
    assert (model["scale_factor"], model["input_key"]) == (ours["scale_factor"], "jpg")
    assert model["optimizer"] == {"use": "adamw", "lr": 1.0e-4}
    assert "ema" not in model
    new = tmp_path / "new.yaml"
    new.write_text(made.text)
    sgm.load_config(new).check()


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_the_loss_is_the_error_of_what_the_network_predicts(convert, prediction):
    """Ho et al. 2020, eq. 14; Salimans & Ho 2022: |n - F|^2 and |v - F|^2, at levels abar of the process."""
    model = model_of(convert(parameterization=prediction))
    scaling = sgm.build("scalings", model["denoiser"]["scaling"])
    weighting = sgm.build("weightings", model["loss_fn"]["weighting"])
    sigma = torch.tensor([0.1, 1.0, 7.0], dtype=torch.float64)
    x, noise, network = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    coefficients = scaling(sigma)
    denoised = coefficients.c_skip * (x + sigma * noise) + coefficients.c_out * network
    abar = 1 / (1 + sigma**2)
    target = noise if prediction == "eps" else abar.sqrt() * noise - (1 - abar).sqrt() * x
    torch.testing.assert_close(weighting(sigma) * (denoised - x) ** 2, (target - network) ** 2)


def test_the_noise_levels_are_those_of_the_process(convert):
    model = model_of(convert(linear_start=None, linear_end=None, timesteps=100))
    levels = sgm.build("discretizations", model["denoiser"]["discretization"])
    betas = torch.linspace(1e-4**0.5, 2e-2**0.5, 100, dtype=torch.float64) ** 2
    abar = torch.cumprod(1 - betas, 0)
    found = sorted(sigma for sigma in levels(100).tolist() if sigma > 0)
    torch.testing.assert_close(torch.tensor(found), ((1 - abar) / abar).sqrt().float(), rtol=1e-4, atol=1e-6)
    assert model["denoiser"]["num_idx"] == model["loss_fn"]["sigma_sampler"]["num_idx"] == 100


def test_the_average_is_there_unless_it_was_switched_off(convert):
    assert model_of(convert(use_ema=None))["ema"] == "ema"
    assert model_of(convert(use_ema=True))["ema"] == "ema"


def test_an_unconditional_model_has_no_conditioner(convert):
    network = {**STABLE["params"]["unet_config"], "params": {**UNET, "context_dim": None}}
    made = convert(cond_stage_config="__is_unconditional__", cond_stage_key=None, unet_config=network)
    model = model_of(made)
    assert "conditioner" not in model
    assert "guider" not in model["sampler"]


def test_what_another_value_says_here_is_said(convert):
    text = convert(scale_by_std=False).text
    for note in ("conditioning_key: crossattn", "use_ema: false", "scale_by_std: false", "log_every_t: 200"):
        assert f"left out {note}" in text
    text = convert(cond_stage_config="__is_unconditional__").text
    assert "left out cond_stage_key: txt (there is no condition)" in text


def test_dropped_captions_are_the_slots(convert):
    [slot] = model_of(convert(ucg_training={"txt": {"p": 0.1, "val": ""}}))["conditioner"]["embedders"]
    assert (slot["ucg_rate"], slot["ucg_value"]) == (0.1, "")


def test_pixels_have_no_first_stage(convert):
    ddpm = {"target": "ldm.models.diffusion.ddpm.DDPM", "params": {
        "unet_config": {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": {
            **UNET, "in_channels": 3, "out_channels": 3, "context_dim": None}}}}  # fmt: skip
    assert model_of(convert(ddpm))["first_stage"] == "identity"


@pytest.mark.parametrize(
    ("params", "line", "path"),
    [
        ({"parameterization": "x0"}, "parameterization", "model.denoiser.scaling.use"),
        ({"beta_schedule": "cosine"}, "beta_schedule", "model.denoiser.discretization.use"),
        ({"scale_by_std": True}, "scale_by_std", "model.scale_factor"),
        ({"cond_stage_config": "__is_first_stage__"}, "cond_stage_config", "model.cond_stage_config.use"),
        ({"original_elbo_weight": 0.1}, "original_elbo_weight", "model.original_elbo_weight"),
        ({"embedding_reg_weight": 0.5}, "embedding_reg_weight", "model.params.embedding_reg_weight"),
        ({"ucg_training": {"cls": {"p": 0.1}}}, "cls", "model.ucg_training.cls"),
        ({"ucg_training": 3}, "ucg_training", "model.ucg_training"),
        ({"first_stage_config": None}, "model", "model.first_stage"),
    ],
)  # fmt: skip
def test_what_has_no_counterpart_is_a_gap_with_its_line(convert, tmp_path, params, line, path):
    made = convert(**params)
    text = (tmp_path / "old.yaml").read_text()
    number = text[: text.index(line)].count("\n") + 1
    assert (number, path) in [(gap.origin.line, gap.path) for gap in made.gaps]
    assert "???" in made.text


def test_inpainting_keeps_its_text_and_leaves_two_gaps(convert):
    inpaint = {**STABLE, "target": "ldm.models.diffusion.ddpm.LatentInpaintDiffusion"}
    made = convert(inpaint, conditioning_key="hybrid")
    text, mask, image = yaml.safe_load(made.text)["model"]["conditioner"]["embedders"]
    assert text["embedder"] == "clip_text"
    assert (mask["input_key"], image["input_key"]) == ("mask", "masked_image")
    assert mask["output"] == image["output"] == "concat"
    assert mask["embedder"] == {"use": "???"}
    assert made.gaps


# --- autoencoders --------------------------------------------------------------------------------------------------


def test_an_autoencoder_trains_as_it_did(convert):
    loss = {"target": "ldm.modules.losses.LPIPSWithDiscriminator",
            "params": {"disc_start": 50001, "kl_weight": 1.0e-6, "disc_weight": 0.5}}  # fmt: skip
    model = model_of(convert({"target": "ldm.models.autoencoder.AutoencoderKL", "params": {
        "embed_dim": 4, "monitor": "val/rec_loss", "ddconfig": LAYOUT, "lossconfig": loss}}))  # fmt: skip
    assert model["loss"]["regularization_weights"] == {"kl_loss": 1.0e-6}
    assert model["loss"]["adversarial"]["start"] == 50001
    assert model["optimizer"] == {"use": "adam", "betas": [0.5, 0.9]}
    assert model["first_stage"]["use"] == "autoencoder_kl"


def test_a_codebooks_weight_beside_a_mean_is_one_beside_a_sum(convert):
    loss = {"target": "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator",
            "params": {"disc_start": 1, "codebook_weight": 0.5, "disc_ndf": 32}}  # fmt: skip
    layout = {**LAYOUT, "double_z": False, "resolution": 64}
    model = model_of(convert({"target": "ldm.models.autoencoder.VQModel", "params": {
        "embed_dim": 3, "n_embed": 8192, "ddconfig": layout, "lossconfig": loss}}))  # fmt: skip
    assert model["loss"]["regularization_weights"] == {"vq_loss": 0.5 * 3 * 64 * 64}
    assert model["loss"]["adversarial"]["discriminator"] == {"use": "patch", "ndf": 32}
    assert model["first_stage"]["use"] == "vq"


# --- parts ---------------------------------------------------------------------------------------------------------


def made(kind: str, name: str, **params: Any) -> tuple[dict[str, Any], list[str]]:
    module = next(module for module, names in MODULES.items() if name in names and module.startswith("ldm."))
    rewriter = Rewriter(all_rules(), Comments(), Problems())
    spec = {"target": f"{module}.{name}", "params": params}
    block = rewriter.component(from_plain(spec, Origin("old.yaml", 1, 1)), kind, "part")
    return block.plain(), [str(problem) for problem in rewriter.problems.found]


def test_a_class_gives_a_token():
    assert made("embedders", "ClassEmbedder", embed_dim=8, n_classes=10, key="class_label") == (
        {"use": "class", "embed_dim": 8, "n_classes": 10, "add_sequence_dim": True},
        [],
    )
    assert made("embedders", "ClassEmbedder", embed_dim=8, ucg_rate=0.1)[1]


@pytest.mark.parametrize("name", ["VQModel", "VQModelInterface"])
def test_a_codebook_is_a_first_stage(name):
    params = {"embed_dim": 3, "n_embed": 16, "ddconfig": {**LAYOUT, "double_z": False}, "image_key": "image",
              "ckpt_path": "vq.ckpt", "lossconfig": {"target": "torch.nn.Identity"}, "remap": None}  # fmt: skip
    stage, problems = made("first_stages", name, **params)
    assert problems == []
    assert (stage["use"], stage["n_embed"], stage["weights"]) == ("vq", 16, "vq.ckpt")


@pytest.mark.parametrize(
    ("kind", "name", "ours"),
    [
        ("networks", "UNetModel", "unet"),
        ("embedders", "FrozenOpenCLIPEmbedder", "open_clip_text"),
        ("embedders", "FrozenT5Embedder", "t5"),
        ("embedders", "SpatialRescaler", "spatial_rescaler"),
        ("first_stages", "IdentityFirstStage", "identity"),
        ("lr_schedules", "LambdaLinearScheduler", "linear_cycles"),
    ],
)
def test_classes_that_both_have(kind, name, ours):
    assert made(kind, name) == ({**made(kind, name)[0], "use": ours}, [])


WEB = {
    "target": "ldm.data.laion.WebDataModuleFromConfig",
    "params": {
        "tar_base": "shards",
        "batch_size": 4,
        "num_workers": 2,
        "multinode": True,
        "train": {
            "shards": "{000000..000009}.tar -",
            "shuffle": 10000,
            "image_key": "jpg",
            "image_transforms": [
                {"target": "torchvision.transforms.Resize", "params": {"size": 512, "interpolation": 3}},
                {"target": "torchvision.transforms.RandomHorizontalFlip"},
                {"target": "torchvision.transforms.RandomCrop", "params": {"size": 512}},
            ],
        },
        "validation": {"shards": "{000010..000011}.tar -"},
    },
}


def test_tar_files_stay_tar_files(convert):
    made = convert(other={"data": WEB})
    assert made.gaps == []
    assert yaml.safe_load(made.text)["data"] == {
        "use": "webdataset",
        "batch_size": 4,
        "num_workers": 2,
        "shards": ["shards/{000000..000009}.tar"],
        "size": 512,
        "flip": 0.5,
        "columns": {"txt": "txt"},
    }
    assert yaml.safe_load(made.text)["model"]["input_key"] == "image"


def test_a_command_that_reads_them_is_a_gap(convert):
    piped = {**WEB, "params": {**WEB["params"], "tar_base": "pipe:aws s3 cp s3://bucket"}}
    made = convert(other={"data": piped})
    assert [gap.path for gap in made.gaps] == ["data.shards"]
    assert "s3://bucket" not in str(yaml.safe_load(made.text))


def test_it_trains_and_samples(tmp_path, monkeypatch):
    from sgm_core.runs.run import start_run

    monkeypatch.chdir(tmp_path)
    write_mnist(tmp_path / "data" / "mnist")
    small = {"in_channels": 1, "out_channels": 1, "model_channels": 32, "channel_mult": [1, 2], "num_res_blocks": 1}
    network = {**UNET, **small, "attention_resolutions": [2], "context_dim": 16, "use_checkpoint": False}
    old = {
        "model": {
            "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
            "params": {
                "conditioning_key": "crossattn",
                "cond_stage_trainable": True,
                "unet_config": {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": network},
                "first_stage_config": {"target": "ldm.models.autoencoder.IdentityFirstStage"},
                "cond_stage_config": {
                    "target": "ldm.modules.encoders.modules.ClassEmbedder",
                    "params": {"embed_dim": 16, "n_classes": 10, "key": "cls"},
                },
            },
        },
        "data": {"target": "sgm.data.mnist.MNISTLoader", "params": {"batch_size": 4}},
    }
    Path("old.yaml").write_text(yaml.safe_dump(old))
    assert main(["convert", "config", "old.yaml", "--out", "new.yaml"]) == 0
    overrides = ["trainer.max_steps=2", "trainer.limit_val_batches=1", "trainer.accelerator=cpu"]
    run = start_run(sgm.load_config("new.yaml", overrides=overrides), tmp_path, "run")
    assert run.train() == 0
    assert sgm.load_engine(run.folder).generate({"cls": [1, 2]}, num_steps=2).isfinite().all()
