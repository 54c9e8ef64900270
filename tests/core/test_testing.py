"""Every built-in keeps its contract; how the kit is called. (What it finds: `testing/`.)"""

from __future__ import annotations

import tarfile
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.key_tables import shapes_of
from support.original_data import write_cifar10, write_mnist
from torch import nn

from sgm_core.conditioning import Conditioning
from sgm_core.kinds import KINDS
from sgm_core.registry import BUILTIN, index
from sgm_core.roles import Coefficients, Scaling
from sgm_core.testing import check_component
from sgm_core.testing.check import CONTRACTS
from sgm_plugins.embedders.classes import ClassEmbedder

# --- the built-ins -------------------------------------------------------------------------------------------------

X, T = torch.linspace(-1, 1, 2 * 8 * 8).view(2, 1, 8, 8), torch.tensor([0.5, 3.0])
CLS = {"cls": torch.tensor([3, 1])}
CAPTIONS = {"caption": ["a cat", "b"]}
CLS_SLOT = {"input_key": "cls", "trainable": True, "ucg_rate": 0.2, "embedder": {"use": "class", "embed_dim": 8}}
SMALL_UNET = {
    "in_channels": 1,
    "out_channels": 1,
    "model_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": [1, 2],
    "attention_resolutions": [2],
    "num_heads": 2,
    "context_dim": 6,
    "num_classes": "sequential",
    "adm_in_channels": 8,
}
VIDEO_UNET = SMALL_UNET | {"num_head_channels": 16, "merge_strategy": "learned_with_images"}
del VIDEO_UNET["num_heads"]
FRAMES = {
    "x": torch.linspace(-1, 1, 6 * 8 * 8).view(6, 1, 8, 8),
    "timesteps": torch.linspace(0.5, 3, 6),
    "context": torch.linspace(-1, 1, 6 * 3 * 6).view(6, 3, 6),
    "y": torch.linspace(-1, 1, 6 * 8).view(6, 8),
    "num_video_frames": 3,
}
"""Two clips of three frames."""

RGB = torch.linspace(-1, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16)
HALVES = {"ch": 32, "ch_mult": [1, 2], "num_res_blocks": 1}
PARTS = {"encoder": HALVES | {"use": "conv"}, "decoder": HALVES | {"use": "conv"}}
CYCLES = {
    "cycle_lengths": [50, 100],
    "warmup_steps": [10, 0],
    "start_factors": [0.1, 0.0],
    "peak_factors": [1.0, 0.5],
    "end_factors": [0.2, 0.1],
}


def as_good(x: torch.Tensor, sigma: torch.Tensor, cond: Conditioning) -> torch.Tensor:
    """The kit's own denoiser, from which autoguidance leads nowhere."""
    assert cond.vector is not None
    return x / (1 + sigma**2)[:, None, None, None] + cond.vector[:, :, None, None]


Z_IMAGE = {
    "model.diffusion_model.cap_pad_token": (1, 3840),
    "model.diffusion_model.cap_embedder.1.weight": (3840, 2560),
    "model.diffusion_model.x_embedder.weight": (3840, 64),
    "model.diffusion_model.layers.0.attention.qkv.weight": (11520, 3840),
    "model.diffusion_model.layers.29.feed_forward.w1.weight": (10240, 3840),
}

DIT = {
    "model.diffusion_model.x_embedder.proj.weight": (1152, 4, 2, 2),
    "model.diffusion_model.y_embedder.embedding_table.weight": (1001, 1152),
    "model.diffusion_model.blocks.0.adaLN_modulation.1.weight": (6912, 1152),
    "model.diffusion_model.blocks.27.mlp.fc1.weight": (4608, 1152),
    "model.diffusion_model.final_layer.linear.weight": (32, 1152),
}

FLUX = {
    "model.diffusion_model.img_in.weight": (3072, 64),
    "model.diffusion_model.vector_in.in_layer.weight": (3072, 768),
    "model.diffusion_model.double_blocks.0.img_mod.lin.weight": (18432, 3072),
    "model.diffusion_model.double_blocks.18.img_mlp.2.weight": (3072, 12288),
    "model.diffusion_model.single_blocks.37.linear2.weight": (3072, 15360),
}
GUIDED = {**FLUX, "model.diffusion_model.guidance_in.in_layer.weight": (3072, 256)}
CHROMA = {key: shape for key, shape in FLUX.items() if "_mod." not in key and "vector_in" not in key}
CHROMA["model.diffusion_model.distilled_guidance_layer.in_proj.weight"] = (5120, 64)

TOKENS = torch.ones(2, 3, 6)
SD_3 = {
    "model.diffusion_model.pos_embed": (1, 384**2, 1536),
    "model.diffusion_model.joint_blocks.0.x_block.attn.ln_q.weight": (64,),
    "model.diffusion_model.joint_blocks.23.x_block.attn.qkv.weight": (4608, 1536),
}
BUILT_INS: dict[str, dict[str, Any]] = {
    "engines/diffusion": {
        "network": {"use": "unet"} | SMALL_UNET | {"context_dim": None},
        "denoiser": {"use": "continuous", "scaling": "edm"},
        "first_stage": "identity",
        "conditioner": {"use": "general", "embedders": [CLS_SLOT]},
        "loss_fn": {"use": "standard", "sigma_sampler": "edm", "weighting": "edm"},
        "ema": "ema",
        "inputs": CLS | {"image": X},
    },
    "engines/autoencoder": {
        "first_stage": PARTS | {"use": "autoencoder", "regularizer": "gaussian"},
        "loss": {
            "learn_logvar": True,
            "regularization_weights": {"kl_loss": 1e-3},
            "adversarial": {"discriminator": {"use": "patch", "num_layers": 1}},
        },
        "ema": "ema",
        "inputs": {"image": RGB},
    },
    "networks/unet": SMALL_UNET
    | {"inputs": {"x": X, "timesteps": T, "context": torch.ones(2, 3, 6), "y": torch.ones(2, 8)}},
    "networks/video_unet": VIDEO_UNET
    | {"inputs": FRAMES | {"image_only_indicator": torch.tensor([[0.0, 0, 0], [1, 1, 1]])}},
    "networks/multiview_video_unet": VIDEO_UNET
    | {"camera_dim": 5, "motion_context_dim": 7, "separate_motion_merge_factor": True}
    | {"inputs": FRAMES | {"num_views": 2, "camera": torch.ones(6, 5), "cond_motion": torch.ones(6, 3, 7)}},
    "networks/ddpm_unet": {"ch": 32, "out_ch": 1, "in_channels": 1, "resolution": 8, "ch_mult": [1, 2]}
    | {"num_res_blocks": 1, "attn_resolutions": [4], "inputs": {"x": X, "timesteps": T}},
    "networks/flux": {"in_channels": 1, "hidden_size": 12, "num_heads": 2, "depth": 1, "depth_single_blocks": 1}
    | {"axes_dim": [2, 2, 2], "context_dim": 6, "vector_dim": 8}
    | {"inputs": {"x": X, "timesteps": T, "context": torch.ones(2, 3, 6), "y": torch.ones(2, 8)}},
    "networks/dit": {"depth": 1, "dim": 8, "num_heads": 2, "in_channels": 1, "input_size": 8, "num_classes": 3}
    | {"inputs": {"x": X, "timesteps": T, "y": torch.tensor([0, 3])}},
    "networks/mmdit": {"depth": 2, "dim": 8, "num_heads": 2, "in_channels": 1, "context_dim": 6, "vector_dim": 8}
    | {"pos_embed_max_size": 8, "base_size": 4}
    | {"inputs": {"x": X, "timesteps": T, "y": torch.ones(2, 8)} | dict.fromkeys(("context", "context_2"), TOKENS)},
    "networks/z_image": {"in_channels": 1, "dim": 12, "n_layers": 1, "n_refiner_layers": 1, "n_heads": 2}
    | {"axes_dims": [2, 2, 2], "context_dim": 6, "inputs": {"x": X, "timesteps": T, "context": torch.ones(2, 3, 6)}},
    "denoisers/continuous": {},
    "denoisers/discrete": {"num_idx": 50},
    "scalings/edm": {},
    "scalings/eps": {"inputs": {"sigma_data": 1.0}},
    "scalings/v": {"inputs": {"sigma_data": 1.0}},
    "scalings/v_edm_noise": {"inputs": {"sigma_data": 1.0}},
    "scalings/flow": {},
    "scalings/x0": {},
    "discretizations/edm": {},
    "discretizations/legacy_ddpm": {},
    "discretizations/img2img": {},
    "discretizations/txt2noisy": {},
    "discretizations/flow": {},
    "discretizations/shifted": {"base_shift": 0.5, "max_shift": 1.15},
    "discretizations/ddpm": {"zero_snr": True},
    "discretizations/exponential": {},
    "discretizations/beta": {},
    "discretizations/linear_quadratic": {},
    "discretizations/levels": {"t": [1.0, 0.7, 0.2]},
    "samplers/euler_edm": {"inputs": {"order": 1}},
    "samplers/heun_edm": {"inputs": {"order": 2}},
    "samplers/euler_ancestral": {"inputs": {"order": 1}},
    "samplers/dpmpp_2s_ancestral": {"inputs": {"order": 2}},
    "samplers/dpmpp_2m": {"inputs": {"order": 2}},
    "samplers/linear_multistep": {"inputs": {"order": 4}},
    "samplers/substep": {"discretization": "legacy_ddpm"},
    "samplers/unipc": {"inputs": {"order": 3}},
    "samplers/dpmpp_2m_sde": {"inputs": {"order": 2}},
    "samplers/dpmpp_3m_sde": {"inputs": {"order": 2}},
    "samplers/dpmpp_sde": {"inputs": {"order": 2}},
    "samplers/lcm": {"inputs": {"order": None}},
    "samplers/deis": {"inputs": {"order": 3}},
    "samplers/ipndm": {"inputs": {"order": 2}},
    "samplers/ddim": {"inputs": {"order": 1}},
    "samplers/ddpm": {},
    "guiders/identity": {},
    "guiders/interval": {"guider": {"use": "cfg", "scale": 3.0}, "sigma_lo": 0.3, "sigma_hi": 5.0},
    "guiders/cfg": {"scale": 3.0},
    "guiders/linear": {"max_scale": 3.0, "num_frames": 4},
    "guiders/triangle": {"max_scale": 3.0, "num_frames": 5, "period": [1.0, 2.0]},
    "guiders/trapezoid": {"max_scale": 3.0, "num_frames": 10},
    "guiders/spatiotemporal": {"max_scale": 3.0, "num_frames": 6, "num_views": 2},
    "guiders/rescale": {"guider": {"use": "cfg", "scale": 3.0}},
    "guiders/apg": {"scale": 3.0},
    "guiders/autoguidance": {"scale": 3.0, "model": as_good},
    "guiders/cfg_zero_star": {"scale": 3.0},
    "guiders/perturbed": {"scale": 3.0, "mode": "pag", "layers": ["middle_block"]},
    "guiders/two_axis": {"scale": 3.0, "second_scale": 2.0, "second": ["extras"]},
    "guiders/stack": {"guiders": [{"use": "cfg", "scale": 3.0}, {"use": "apg", "scale": 2.0}]},
    "losses/standard": {},
    "losses/uncertainty": {"loss": {"use": "standard", "sigma_sampler": "edm", "weighting": "edm"}},
    "weightings/unit": {},
    "weightings/edm": {},
    "weightings/v": {},
    "weightings/eps": {},
    "weightings/flow": {},
    "weightings/min_snr": {},
    "weightings/debiased": {},
    "weightings/p2": {},
    "weightings/sigma_sqrt": {},
    "weightings/cosmap": {},
    "sigma_samplers/edm": {},
    "sigma_samplers/discrete": {"num_idx": 20},
    "sigma_samplers/zero": {},
    "sigma_samplers/logit_normal": {},
    "sigma_samplers/uniform_time": {},
    "sigma_samplers/mode": {},
    "sigma_samplers/cosmap": {},
    "sigma_samplers/shifted": {"sigma_sampler": "logit_normal", "shift": 3.0},
    "sigma_samplers/clamped": {"sigma_sampler": "edm", "sigma_min": 0.1, "sigma_max": 10.0},
    "sigma_samplers/stratified": {"sigma_sampler": "edm"},
    "sigma_samplers/adaptive": {"sigma_sampler": "edm"},
    "conditioners/general": {"embedders": [CLS_SLOT], "inputs": CLS},
    "embedders/class": {"embed_dim": 8, "n_classes": 10, "inputs": CLS},
    "embedders/class_index": {"n_classes": 10, "inputs": CLS},
    "embedders/cached": {"embedder": "identity", "inputs": {"features": torch.ones(2, 3, 6)}},
    "embedders/identity": {"inputs": {"features": torch.ones(2, 3, 6)}},
    "embedders/timestep": {"outdim": 6, "inputs": {"size": torch.tensor([[64, 48], [512, 512]])}},
    "embedders/spatial_rescaler": {"inputs": {"image": RGB}},
    "embedders/low_scale": {"first_stage": "identity", "discretization": "legacy_ddpm", "output_size": 4}
    | {"inputs": {"image": RGB}},
    "embedders/gaussian_encoder": {"encoder": HALVES | {"use": "conv", "z_channels": 2}, "inputs": {"image": RGB}},
    "embedders/video_prediction": {"encoder": "identity", "n_copies": 2, "inputs": {"frames": RGB}},
    "embedders/clip_text": {"model": "clip", "max_length": 16, "return_pooled": True, "inputs": CAPTIONS},
    "embedders/open_clip_text": {"model": "clip", "max_length": 16, "return_pooled": True, "inputs": CAPTIONS},
    "embedders/t5": {"model": "t5", "max_length": 9, "inputs": CAPTIONS},
    "embedders/byt5": {"model": "byt5", "max_length": 9, "inputs": CAPTIONS},
    "embedders/clip_t5": {"clip_model": "clip", "t5_model": "t5", "clip_max_length": 16, "t5_max_length": 16}
    | {"inputs": CAPTIONS},
    "embedders/hf_text": {"model": "bert", "max_length": 9, "inputs": CAPTIONS},
    "embedders/token_mask": {"model": "t5", "max_length": 9, "inputs": CAPTIONS},
    "embedders/guidance": {"inputs": {"guidance": torch.ones(2)}},
    "embedders/reference": {"inputs": {"reference": torch.ones(2, 4, 2, 2)}},
    "embedders/llm_text": {"model": "qwen3", "max_length": 9, "inputs": CAPTIONS},
    "embedders/clip_image": {"model": "clip", "output_tokens": True, "inputs": {"image": RGB}},
    "embedders/clip_image_prediction": {"embedder": {"use": "clip_image", "model": "clip"}, "n_copies": 2}
    | {"inputs": {"frames": RGB}},
    "embedders/projected": {"embedder": {"use": "class", "embed_dim": 6}, "in_features": 6, "width": 4, "inputs": CLS},
    "embedders/learned_null": {"embedder": {"use": "class", "embed_dim": 6}, "shapes_of_null": [[6]], "inputs": CLS},
    "first_stages/cached": {"first_stage": "identity", "inputs": {"round_trip": 0.0}},
    "first_stages/identity": {"inputs": {"round_trip": 0.0}},
    "first_stages/autoencoder": PARTS | {"regularizer": "gaussian"},
    "first_stages/autoencoder_kl": HALVES,
    "first_stages/autoencoder_kl_mode": HALVES,
    "first_stages/tiny": {"width": 8},
    "first_stages/vq": HALVES | {"n_embed": 16},
    "first_stages/temporal_autoencoder": PARTS | {"decoder": HALVES | {"use": "temporal"}, "regularizer": "gaussian"},
    "first_stages/integer": {"first_stage": {"use": "vq", "n_embed": 16} | HALVES},
    "regularizers/identity": {},
    "regularizers/gaussian": {},
    "regularizers/vq": {"n_embed": 16, "embed_dim": 8},
    "regularizers/ema_vq": {"n_embed": 16, "embed_dim": 8},
    "regularizers/gumbel": {"n_embed": 16, "embed_dim": 8, "num_hiddens": 8},
    "encoders/conv": HALVES,
    "decoders/conv": HALVES,
    "decoders/temporal": HALVES | {"time_mode": "all"},
    "discriminators/patch": {"ndf": 8, "num_layers": 2},
    "feature_networks/vgg16": {"weights": "random"},
    "adapters/lora": {"targets": "."},
    "averages/ema": {},
    **{
        f"optimizers/{name}": {}
        for name in ("adamw", "adam", "adamax", "adafactor", "adagrad", "adadelta", "nadam", "radam", "rmsprop", "sgd")
    },
    "lr_schedules/constant": {"warmup_steps": 5},
    "lr_schedules/linear": {"total_steps": 500, "warmup_steps": 5},
    "lr_schedules/cosine": {"total_steps": 500, "warmup_steps": 5},
    "lr_schedules/linear_cycles": CYCLES,
    "lr_schedules/cosine_cycles": CYCLES,
    "datamodules/digits": {"batch_size": 64},
    "datamodules/digits_captions": {"batch_size": 64},
    "datamodules/image_folder": {"size": 8, "batch_size": 2, "root": "images"},
    "datamodules/mnist": {"root": "mnist", "batch_size": 4},
    "datamodules/cifar10": {"root": "cifar10", "batch_size": 4},
    "datamodules/webdataset": {"size": 8, "batch_size": 2, "shards": "images/*.tar", "columns": {"txt": "txt"}},
    "datamodules/hf_dataset": {"size": 8, "batch_size": 2, "path": "images/table", "columns": {"txt": "text"}},
    "callbacks/early_stopping": {"monitor": "loss"},
    "callbacks/gradient_accumulation": {"scheduling": {0: 1}},
    **{
        f"callbacks/{name}": {}
        for name in ("image_logger", "device_stats", "lr_monitor", "model_checkpoint", "model_summary", "timer",
                     "rich_progress_bar", "tqdm_progress_bar")
    },
    "loggers/csv": {},
    "loggers/tensorboard": {},
    "loggers/wandb": {"offline": True},
    "families/sd_1": {},
    "families/sd_2": {"inputs": {"shapes": shapes_of("sd_2_1")}},
    "families/sd_xl": {"inputs": {"shapes": shapes_of("sd_xl_base")}},
    "families/sd_xl_refiner": {"inputs": {"shapes": shapes_of("sd_xl_refiner")}},
    "families/svd": {"inputs": {"shapes": shapes_of("svd_image_decoder")}},
    "families/sv3d_u": {"inputs": {"shapes": shapes_of("sv3d_u")}},
    "families/sv3d_p": {},
    "families/flux_dev": {"inputs": {"shapes": GUIDED}},
    "families/flux_kontext": {"inputs": {"shapes": GUIDED}},
    "families/flux_schnell": {"inputs": {"shapes": FLUX}},
    "families/chroma": {"inputs": {"shapes": CHROMA}},
    "families/sd3": {"inputs": {"shapes": SD_3}},
    "families/dit": {"inputs": {"shapes": DIT}},
    "families/z_image": {"inputs": {"shapes": Z_IMAGE}},
    "families/lora": {"inputs": {"shapes": {"lora_unet_x.lora_down.weight": (4, 8)}}},
    "families/controlnet": {"inputs": {"shapes": {"control_model.input_blocks.0.0.weight": (4, 8)}}},
    "families/textual_inversion": {"inputs": {"shapes": {"emb_params": (4, 8)}}},
    "families/transformer": {"inputs": {"shapes": {"double_blocks.0.img_attn.qkv.weight": (4, 8)}}},
    "families/part": {"inputs": {"shapes": {"decoder.up.0.block.0.conv1.weight": (4, 8, 3, 3)}}},
}  # fmt: skip
"""Arguments and inputs of each. A built-in that is new needs a line, or its test fails."""


@pytest.mark.parametrize(
    "name", [f"{e.kind}/{e.name}" for e in index.entries() if e.distribution == BUILTIN and e.kind in KINDS]
)
def test_every_built_in_keeps_its_contract(name, tmp_path, monkeypatch):
    assert name in BUILT_INS, f"add {name} to the table of arguments"
    for module in {"loggers/tensorboard": ["tensorboard"], "loggers/wandb": ["wandb"],
                   "callbacks/rich_progress_bar": ["rich"],
                   "datamodules/hf_dataset": ["datasets"]}.get(name, []):  # fmt: skip
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    for i in range(6):
        Image.fromarray(np.full((12, 10, 3), 40 * i, dtype=np.uint8)).save(tmp_path / "images" / f"{i}.png")
    write_mnist(tmp_path / "mnist")
    write_cifar10(tmp_path / "cifar10")
    for folder in ("clip", "t5", "byt5", "bert", "qwen3"):
        if folder in str(BUILT_INS[name]) and "model" in str(BUILT_INS[name]):
            pytest.importorskip("transformers")
            from support import tiny_transformers

            getattr(tiny_transformers, f"write_{folder}")(tmp_path / folder)
    if name == "datamodules/webdataset":
        write_shard(tmp_path / "images")
    if name == "datamodules/hf_dataset":
        write_table(tmp_path / "images")
    kind, _, bare = name.partition("/")
    check_component(kind, bare, **BUILT_INS[name])


def write_shard(folder):
    """The images of a folder as a tar file, each with a caption."""
    with tarfile.open(folder / "shard.tar", "w") as tar:
        for path in sorted(folder.glob("*.png")):
            path.with_suffix(".txt").write_text(f"image {path.stem}")
            tar.add(path, path.name)
            tar.add(path.with_suffix(".txt"), f"{path.stem}.txt")


def write_table(folder):
    """The images of a folder as a table of the `datasets` library, each with a caption."""
    import datasets

    paths = sorted(map(str, folder.glob("*.png")))
    table = datasets.Dataset.from_dict({"image": paths, "text": [f"image {path}" for path in paths]})
    table.cast_column("image", datasets.Image()).save_to_disk(folder / "table")


@pytest.mark.parametrize("sampler", ["euler_edm", "heun_edm"])
def test_samplers_that_add_noise_keep_it_too(sampler):
    check_component("samplers", sampler, discretization="legacy_ddpm", guider="identity", s_churn=20.0)


def test_every_kind_has_a_contract():
    assert CONTRACTS.keys() == KINDS.keys()


# --- the call itself -----------------------------------------------------------------------------------------------


class OneVector(nn.Module):
    """The same vector for every sample, k rows of it."""

    def __init__(self, width: int, rows: int = 1) -> None:
        super().__init__()
        self.rows = rows
        self.weight = nn.Parameter(torch.randn(width))

    def forward(self, *entries):
        return [self.weight.expand(len(entries[0]) * self.rows, -1), self.weight.expand(len(entries[0]), 2, -1)]


def test_an_embedder_may_read_texts_and_several_entries_and_give_several_outputs():
    check_component("embedders", OneVector, inputs={"txt": ["a", "b", "c"], "size": torch.ones(3, 2)}, width=4)


def test_a_name_stands_for_what_is_registered(register):
    register("embedders", "one_vector")(OneVector)
    check_component("embedders", "one_vector", inputs=CLS, width=4)
    check_component("embedders", "local:one_vector", inputs=CLS, width=4)


def test_random_states_are_left_as_they_were():
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    check_component("datamodules", "digits")
    check_component("embedders", "class", inputs=CLS, embed_dim=4)
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()


def test_what_it_is_given_is_left_as_it_was():
    arguments = {"embedders": [{"input_key": "cls", "embedder": ClassEmbedder(4)}]}
    before = arguments["embedders"][0]["embedder"].embedding.weight.clone()
    check_component("conditioners", "general", inputs=CLS, **arguments)
    embedder = arguments["embedders"][0]["embedder"]
    assert torch.equal(embedder.embedding.weight, before)
    assert embedder.embedding.weight.requires_grad
    assert embedder.training


def test_params_that_the_schema_refuses_are_the_tests_own_mistake():
    with pytest.raises(ValueError, match=r"has no 'n_clases'\. Did you mean 'n_classes'") as error:
        check_component("embedders", "class", inputs=CLS, embed_dim=8, n_clases=10)
    assert not isinstance(error.value, AssertionError)


@pytest.mark.parametrize(
    ("kind", "component", "inputs", "message"),
    [
        ("embedder", "class", None, "unknown kind 'embedder'. Did you mean 'embedders'"),
        ("embedders", "clas", None, "unknown embedder 'clas'. Did you mean 'class'"),
        ("embedders", 3, None, "3 cannot be checked"),
        ("embedders", "identity", None, "needs inputs: the entries that it is called with"),
        ("samplers", "heun_edm", {"ordr": 2}, "takes no inputs 'ordr'. Did you mean 'order'"),
        ("networks", "unet", {"x": X}, "needs inputs: .'timesteps'"),
    ],
)
def test_a_wrong_call_is_a_value_error(kind, component, inputs, message):
    with pytest.raises(ValueError, match=message):
        check_component(kind, component, inputs=inputs)


def test_a_constructor_may_have_parameters_called_kind_and_component():
    class Named(Scaling):
        """Noise prediction by two names."""

        def __init__(self, kind: str, component: str) -> None:
            self.names = kind, component

        def __call__(self, sigma):
            return Coefficients(torch.ones_like(sigma), -sigma, 1 / (sigma**2 + 1).sqrt(), sigma)

    check_component("scalings", Named, kind="a", component="b")


def test_the_kit_does_not_import_pytest(python):
    code = "import sys, sgm_core.testing; sys.exit('pytest' in sys.modules or 'sgm_plugins.scalings' in sys.modules)"
    assert python("-c", code).returncode == 0
