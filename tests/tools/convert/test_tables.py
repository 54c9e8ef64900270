"""Every class that the tables know converts with all of its parameters, and what comes out passes the check."""

from __future__ import annotations

from typing import Any

import pytest

from sgm_core.config.check import Checker
from sgm_core.config.schema import Component
from sgm_core.config.tree import Origin, Problems, from_plain
from sgm_core.kinds import KINDS
from sgm_core.registry import index
from sgm_plugins.tools.catalog.source.reader import Sources
from sgm_plugins.tools.convert.document import Block
from sgm_plugins.tools.convert.legacy import Comments
from sgm_plugins.tools.convert.packages import LIBRARIES, MODULES
from sgm_plugins.tools.convert.rewriter import Rewriter
from sgm_plugins.tools.convert.tables import all_rules

RULES = all_rules()
PAIRS = [(name, rule) for name, rules in RULES.items() for rule in rules if rule.packages[0] != "ldm"]
"""All but those of latent diffusion alone."""

D = "sgm.modules.diffusionmodules."
QUANTIZE = "sgm.modules.autoencoding.regularizers.quantize."
EDM = {"target": D + "discretizer.EDMDiscretization"}
DDPM = {"target": D + "discretizer.LegacyDDPMDiscretization"}
CFG = {"target": D + "guiders.VanillaCFG", "params": {"scale": 2.0}}
IDENTITY = {"target": "torch.nn.Identity"}
STAGE = {"target": "sgm.models.autoencoder.IdentityFirstStage"}
LAYOUT = {
    "ch": 32,
    "ch_mult": [1, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [],
    "resolution": 32,
    "z_channels": 4,
    "dropout": 0.1,
    "resamp_with_conv": True,
    "attn_type": "vanilla-xformers",
    "use_linear_attn": False,
}
OUT = {"out_ch": 3, "tanh_out": False}
ENCODER = {"target": D + "model.Encoder", "params": {**LAYOUT, **OUT, "in_channels": 3, "double_z": True}}
DECODER = {
    "target": D + "model.Decoder",
    "params": {**LAYOUT, **OUT, "in_channels": 3, "double_z": True, "give_pre_end": False},
}
TRAINING = {
    "loss_config": IDENTITY,
    "lossconfig": IDENTITY,
    "optimizer_config": {"target": "torch.optim.Adam"},
    "monitor": "val/rec_loss",
    "lr_g_factor": 1.0,
    "trainable_ae_params": [[".*"]],
    "ae_optimizer_args": [{}],
    "trainable_disc_params": [[".*"]],
    "disc_optimizer_args": [{}],
    "disc_start_iter": 0,
    "diff_boost_factor": 3.0,
    "additional_decode_keys": [],
    "ema_decay": 0.999,
    "input_key": "jpg",
    "ckpt_path": "vae.ckpt",
    "ckpt_engine": None,
}
REGULARIZER = {"target": "sgm.modules.autoencoding.regularizers.DiagonalGaussianRegularizer"}
VQ = {
    "target": "sgm.modules.autoencoding.regularizers.quantize.VectorQuantizer",
    "params": {"n_e": 16, "e_dim": 4, "beta": 0.1},
}
LEGACY = {"embed_dim": 4, "max_batch_size": 2, "ddconfig": {**LAYOUT, **OUT, "in_channels": 3, "double_z": True}}
KL = {**TRAINING, **LEGACY}
TABLE = {"discretization_config": DDPM, "num_idx": 100, "do_append_zero": False, "flip": True}
SAMPLER = {"discretization_config": EDM, "guider_config": CFG, "num_steps": 3, "verbose": True, "device": "cuda"}
CHURN = {**SAMPLER, "s_churn": 0.0, "s_tmin": 0.0, "s_tmax": 999.0, "s_noise": 1.0}
ANCESTRAL = {**SAMPLER, "eta": 1.0, "s_noise": 1.0}
CLIP = {"max_scale": 2.5, "min_scale": 1.0, "num_frames": 4, "additional_cond_keys": ["cond_view"]}
CYCLES = {
    "cycle_lengths": [100],
    "warm_up_steps": [10],
    "f_start": [0.0],
    "f_max": [1.0],
    "f_min": [0.1],
    "verbosity_interval": 0,
}
UNET = {
    "in_channels": 3,
    "model_channels": 32,
    "out_channels": 3,
    "num_res_blocks": 1,
    "attention_resolutions": [],
    "dropout": 0.0,
    "channel_mult": [1, 2],
    "conv_resample": True,
    "dims": 2,
    "num_classes": "sequential",
    "use_checkpoint": False,
    "num_heads": -1,
    "num_head_channels": 32,
    "num_heads_upsample": -1,
    "use_scale_shift_norm": False,
    "resblock_updown": False,
    "transformer_depth": [1, 1],
    "context_dim": [8, 8],
    "use_linear_in_transformer": True,
    "adm_in_channels": 8,
    "spatial_transformer_attn_type": "softmax-xformers",
}
OLDER = {
    "image_size": 32,
    "legacy": False,
    "use_fp16": False,
    "use_bf16": False,
    "n_embed": None,
    "use_new_attention_order": False,
    "use_spatial_transformer": True,
}
VIDEO = {
    **UNET,
    **OLDER,
    "transformer_depth_middle": 1,
    "use_spatial_context": True,
    "merge_strategy": "learned_with_images",
    "merge_factor": 0.5,
    "video_kernel_size": [3, 1, 1],
    "disable_temporal_crossattention": False,
    "max_ddpm_temb_period": 10000,
    "extra_ff_mix_layer": True,
    "time_downup": False,
}
MULTIVIEW = {
    **VIDEO,
    "view_context_dim": 8,
    "motion_context_dim": 4,
    "use_motion_attention": True,
    "use_3d_attention": True,
    "separate_motion_merge_factor": True,
    "time_block_merge_strategy": "learned",
    "time_block_merge_factor": 0.0,
    "time_kernel_size": [3, 1, 1],
    "use_camera_emb": False,
    "time_mix_legacy": True,
    "replicate_time_mix_bug": False,
}
TEXT = {"freeze": True, "device": "cuda", "init_device": "cuda", "version": "a/model", "max_length": 77}
OPEN_CLIP = {**TEXT, "arch": "ViT-bigG-14", "version": "laion2b_s39b_b160k", "layer": "penultimate"}
IMAGE = {
    **TEXT,
    "arch": "ViT-H-14",
    "version": "laion2b_s32b_b79k",
    "antialias": True,
    "unsqueeze_dim": False,
    "repeat_to_max_len": False,
    "num_image_crops": 0,
    "output_tokens": False,
    "ucg_rate": 0.0,
}
CODES = {"sane_index_shape": False, "log_perplexity": False, "remap": None, "unknown_index": "random"}
CLASS = {"target": "sgm.modules.encoders.modules.ClassEmbedder", "params": {"embed_dim": 8}, "input_key": "cls"}

EXAMPLES: dict[str, dict[str, Any]] = {
    # denoisers, scalings, discretizations
    "Denoiser": {"scaling_config": {"target": D + "denoiser_scaling.VScaling"}, "weighting_config": None},
    "DiscreteDenoiser": {
        "scaling_config": {"target": D + "denoiser_scaling.EpsScaling"},
        "weighting_config": {"target": D + "denoiser_weighting.EpsWeighting"},
        "quantize_c_noise": True,
        **TABLE,
    },
    "EDMScaling": {"sigma_data": 1.0},
    "EpsScaling": {},
    "VScaling": {},
    "VScalingWithEDMcNoise": {},
    "EDMDiscretization": {"sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0},
    "LegacyDDPMDiscretization": {"linear_start": 0.001, "linear_end": 0.01, "num_timesteps": 100},
    "Img2ImgDiscretizationWrapper": {"discretization": EDM, "strength": 0.5},
    "Txt2NoisyDiscretizationWrapper": {"discretization": EDM, "strength": 0.5, "original_steps": 10},
    # guiders and samplers
    "VanillaCFG": {"scale": 2.0, "dyn_thresh_config": {"target": D + "sampling_utils.NoDynamicThresholding"}},
    "IdentityGuider": {},
    "LinearPredictionGuider": CLIP,
    "TrianglePredictionGuider": {**CLIP, "period": [1.0, 2.0], "period_fusing": "mean"},
    "TrapezoidPredictionGuider": {**CLIP, "edge_perc": 0.1},
    "SpatiotemporalPredictionGuider": {**CLIP, "num_views": 2},
    "EulerEDMSampler": CHURN,
    "HeunEDMSampler": CHURN,
    "EulerAncestralSampler": ANCESTRAL,
    "DPMPP2SAncestralSampler": ANCESTRAL,
    "DPMPP2MSampler": SAMPLER,
    "LinearMultistepSampler": {**SAMPLER, "order": 4},
    "SubstepSampler": {**ANCESTRAL, "n_sample_steps": 2},
    # training
    "StandardDiffusionLoss": {
        "sigma_sampler_config": {"target": D + "sigma_sampling.EDMSampling"},
        "loss_weighting_config": {"target": D + "loss_weighting.EDMWeighting"},
        "loss_type": "lpips",
        "type": "lpips",
        "offset_noise_level": 0.02,
        "batch2model_keys": ["image_only_indicator"],
    },
    "UnitWeighting": {},
    "EDMWeighting": {"sigma_data": 1.0},
    "VWeighting": {},
    "EpsWeighting": {},
    "EDMSampling": {"p_mean": -1.2, "p_std": 1.2},
    "DiscreteSampling": TABLE,
    "ZeroSampler": {},
    # networks
    "UNetModel": {
        **UNET,
        **OLDER,
        "disable_self_attentions": [False, False],
        "num_attention_blocks": [1, 1],
        "disable_middle_self_attn": False,
        "disable_middle_transformer": False,
    },
    "VideoUNet": {**VIDEO, "time_context_dim": 8},
    "SpatialUNetModelWithTime": MULTIVIEW,
    "Model": {
        **{key: value for key, value in LAYOUT.items() if key != "z_channels"},
        "in_channels": 3,
        "out_ch": 3,
        "use_timestep": True,
    },
    # first stages
    "IdentityFirstStage": {},
    "AutoencoderKL": KL,
    "AutoencoderKLInferenceWrapper": KL,
    "AutoencoderKLModeOnly": KL,
    "AutoencoderLegacyVQ": {
        **KL,
        "n_embed": 16,
        "sane_index_shape": False,
        "ddconfig": {**LEGACY["ddconfig"], "double_z": False},
    },
    "AutoencodingEngineLegacy": {**KL, "regularizer_config": VQ},
    "AutoencodingEngine": {
        **TRAINING,
        "regularizer_config": REGULARIZER,
        "encoder_config": ENCODER,
        "decoder_config": DECODER,
    },
    "AEIntegerWrapper": {
        "model": {
            "target": "sgm.models.autoencoder.AutoencodingEngine",
            "params": {"regularizer_config": VQ, "encoder_config": ENCODER, "decoder_config": DECODER},
        },
        "shape": [4, 4],
        "regularization_key": "x",
        "encoder_kwargs": {},
    },
    "Encoder": ENCODER["params"],
    "Decoder": DECODER["params"],
    "VideoDecoder": {
        **DECODER["params"],
        "time_mode": "conv-only",
        "video_kernel_size": [3, 1, 1],
        "alpha": 0.0,
        "merge_strategy": "learned",
    },
    "IdentityRegularizer": {},
    "DiagonalGaussianRegularizer": {"sample": False},
    "VectorQuantizer": {
        "n_e": 16,
        "e_dim": 4,
        "n_embed": 16,
        "embedding_dim": 4,
        "beta": 0.2,
        "embedding_weight_norm": False,
        **CODES,
    },
    "VectorQuantizerWithInputProjection": {
        "n_codes": 16,
        "codebook_dim": 4,
        "input_dim": 8,
        "beta": 1.0,
        "output_dim": 8,
        "embedding_weight_norm": False,
        **CODES,
    },
    "EMAVectorQuantizer": {
        "n_e": 16,
        "e_dim": 4,
        "n_embed": 16,
        "embedding_dim": 4,
        "beta": 0.2,
        "decay": 0.99,
        "eps": 1e-5,
        **CODES,
    },
    "GumbelQuantizer": {
        "num_hiddens": 8,
        "embedding_dim": 4,
        "n_embed": 16,
        "straight_through": True,
        "kl_weight": 0.001,
        "temp_init": 1.0,
        "remap": None,
    },
    # conditioner and embedders
    "GeneralConditioner": {"emb_models": [CLASS]},
    "Identity": {},
    "IdentityEncoder": {},
    "ClassEmbedder": {"embed_dim": 8, "n_classes": 10, "add_sequence_dim": True},
    "ConcatTimestepEmbedderND": {"outdim": 256},
    "SpatialRescaler": {
        "n_stages": 1,
        "method": "bilinear",
        "multiplier": 0.5,
        "in_channels": 3,
        "out_channels": 4,
        "bias": False,
        "wrap_video": False,
        "kernel_size": 1,
        "remap_output": True,
    },
    "LowScaleEncoder": {
        "model_config": STAGE,
        "linear_start": 0.001,
        "linear_end": 0.01,
        "timesteps": 100,
        "max_noise_level": 50,
        "output_size": 8,
        "scale_factor": 1.0,
    },
    "GaussianEncoder": {**ENCODER["params"], "weight": 1.0, "flatten_output": True},
    "VideoPredictionEmbedderWithEncoder": {
        "encoder_config": STAGE,
        "sigma_sampler_config": {"target": D + "sigma_sampling.EDMSampling"},
        "sigma_cond_config": {
            "target": "sgm.modules.encoders.modules.ConcatTimestepEmbedderND",
            "params": {"outdim": 8},
        },
        "n_cond_frames": 1,
        "n_copies": 2,
        "scale_factor": 1.0,
        "is_ae": True,
        "disable_encoder_autocast": True,
        "en_and_decode_n_samples_a_time": 1,
    },
    "FrozenCLIPEmbedder": {**TEXT, "layer": "hidden", "layer_idx": 11, "always_return_pooled": True},
    "FrozenOpenCLIPEmbedder2": {**OPEN_CLIP, "always_return_pooled": True, "legacy": False},
    "FrozenOpenCLIPEmbedder": OPEN_CLIP,
    "FrozenT5Embedder": TEXT,
    "FrozenByT5Embedder": TEXT,
    "FrozenCLIPT5Encoder": {
        "freeze": True,
        "device": "cuda",
        "init_device": "cuda",
        "clip_version": "a/clip",
        "t5_version": "a/t5",
        "clip_max_length": 77,
        "t5_max_length": 77,
    },
    "FrozenOpenCLIPImageEmbedder": IMAGE,
    "FrozenOpenCLIPImagePredictionEmbedder": {
        "open_clip_embedding_config": {"target": "sgm.modules.encoders.modules.FrozenOpenCLIPImageEmbedder"},
        "n_cond_frames": 1,
        "n_copies": 1,
    },
    # engines
    "DiffusionEngine": {
        "network_config": {"target": D + "openaimodel.UNetModel", "params": UNET},
        "denoiser_config": {
            "target": D + "denoiser.Denoiser",
            "params": {"scaling_config": {"target": D + "denoiser_scaling.VScaling"}},
        },
        "first_stage_config": STAGE,
        "conditioner_config": "__is_unconditional__",
        "sampler_config": {"target": D + "sampling.DPMPP2MSampler", "params": SAMPLER},
        "optimizer_config": {"target": "torch.optim.AdamW", "params": {"weight_decay": 0.01}},
        "scheduler_config": {"target": "sgm.lr_scheduler.LambdaLinearScheduler", "params": CYCLES},
        "loss_fn_config": None,
        "loss_config": None,
        "network_wrapper": D + "wrappers.OpenAIWrapper",
        "ckpt_path": "old.safetensors",
        "use_ema": True,
        "ema_decay_rate": 0.999,
        "scale_factor": 0.18215,
        "disable_first_stage_autocast": True,
        "input_key": "png",
        "log_keys": ["txt"],
        "no_cond_log": False,
        "compile_model": False,
        "en_and_decode_n_samples_a_time": 2,
    },
    # schedules
    "LambdaWarmUpCosineScheduler": {
        "warm_up_steps": 10,
        "lr_min": 0.1,
        "lr_max": 1.0,
        "lr_start": 0.0,
        "max_decay_steps": 100,
        "verbosity_interval": 0,
    },
    "LambdaWarmUpCosineScheduler2": CYCLES,
    "LambdaLinearScheduler": CYCLES,
    # optimizers and callbacks: torch's and Lightning's own
    **{name: {"lr": 0.1} for name, rule in PAIRS if rule.kind == "optimizers"},
    "ImageLogger": {
        "batch_frequency": 100,
        "increase_log_steps": True,
        "max_images": 8,
        "log_first_step": True,
        "log_before_first_step": False,
        "log_images_kwargs": {"N": 4, "sample": True, "ucg_keys": ["cls"], "use_ema_scope": False, "n_rows": 2},
        "disabled": False,
        "clamp": True,
        "rescale": True,
        "log_on_batch_idx": False,
        "enable_autocast": False,
    },
    "DeviceStatsMonitor": {"cpu_stats": True},
    "EarlyStopping": {"monitor": "loss"},
    "GradientAccumulationScheduler": {"scheduling": {0: 2}},
    "LearningRateMonitor": {"logging_interval": "step"},
    "ModelCheckpoint": {"save_top_k": -1},
    "ModelSummary": {"max_depth": 2},
    "RichProgressBar": {"leave": True},
    "Timer": {"interval": "step"},
    "TQDMProgressBar": {"leave": True},
}


GAN = {
    "disc_start": 100,
    "disc_loss": "vanilla",
    "disc_weight": 0.5,
    "disc_factor": 1.0,
    "disc_in_channels": 3,
    "disc_num_layers": 2,
    "dims": 2,
    "perceptual_weight": 0.25,
    "learn_logvar": True,
    "logvar_init": 0.1,
    "scale_input_to_tgt_size": False,
    "regularization_weights": {"kl_loss": 1e-6},
    "additional_log_keys": [],
    "discriminator_config": None,
}
GAN_CONFIG = {"target": "sgm.modules.autoencoding.losses.GeneralLPIPSWithDiscriminator", "params": GAN}
ENGINE = {
    **TRAINING,
    "loss_config": GAN_CONFIG,
    "trainable_ae_params": None,
    "ae_optimizer_args": None,
    "trainable_disc_params": None,
    "disc_optimizer_args": None,
}
PATCH = {"input_nc": 3, "ndf": 64, "n_layers": 3, "use_actnorm": False}

TRAINED: dict[str, dict[str, Any]] = {
    "AutoencodingEngine": {
        **ENGINE,
        "regularizer_config": REGULARIZER,
        "encoder_config": ENCODER,
        "decoder_config": DECODER,
    },
    "AutoencodingEngineLegacy": {**ENGINE, **LEGACY, "regularizer_config": VQ},
    "AutoencoderKL": {**ENGINE, **LEGACY},
    "AutoencoderLegacyVQ": {
        **ENGINE,
        **EXAMPLES["AutoencoderLegacyVQ"],
        "loss_config": GAN_CONFIG,
        **{key: None for key in ENGINE if key.startswith(("trainable_", "ae_", "disc_optimizer"))},
    },
    "GeneralLPIPSWithDiscriminator": GAN,
    "NLayerDiscriminator": PATCH,
}
"""Of what trains an autoencoder: the same classes are first stages elsewhere."""

NOT_YET = {"engines/autoencoder", "discriminators/patch"} - {f"{e.kind}/{e.name}" for e in index.entries()}
"""What the tables speak of that is built elsewhere. Registered, it is checked like the rest."""


def example(rule: Any, name: str) -> dict[str, Any]:
    trained = rule.kind in ("engines", "autoencoder_losses", "discriminators") and name in TRAINED
    return TRAINED[name] if trained else EXAMPLES[name]


def convert(kind: str, spec: Any) -> tuple[Block | None, list[str], Rewriter]:
    """A part converted, and the problems."""
    rewriter = Rewriter(RULES, Comments(), Problems())
    block = rewriter.component(from_plain(spec, Origin("old.yaml", 1, 1)), kind, "part")
    return block, [str(problem) for problem in rewriter.problems.found], rewriter


def check(kind: str, spec: Any) -> list[str]:
    """What `sgm check` says of a converted part."""
    checker = Checker(Sources())
    checker.check(from_plain(spec, Origin("new.yaml")), Component(kind), "part")
    return [str(problem) for problem in checker.problems.found]


def of(rule: Any, name: str, params: dict[str, Any]) -> dict[str, Any]:
    home = next((m for m, names in MODULES.items() if name in names and m.partition(".")[0] in rule.packages), "torch")
    return {"target": f"{home if rule.packages[0] not in LIBRARIES else rule.packages[0]}.{name}", "params": params}


def test_every_class_has_an_example():
    assert set(EXAMPLES) | set(TRAINED) == {name for name, _ in PAIRS}


@pytest.mark.parametrize(("name", "rule"), PAIRS, ids=[f"{rule.kind}/{name}" for name, rule in PAIRS])
def test_it_converts_with_every_parameter_and_passes_the_check(name, rule):
    params = example(rule, name)
    assert rule.any_param or set(params) == set(rule.params)
    block, problems, _ = convert(rule.kind, of(rule, name, params))
    assert problems == []
    assert block is not None
    made = block.plain()
    kind = rule.kind
    if kind in ("encoders", "decoders"):  # plain arguments of one: checked where they belong
        stage = "temporal_autoencoder" if name == "VideoDecoder" else "autoencoder"
        decoder = convert("decoders", DECODER)[0].plain()
        kind, made = "first_stages", {"use": stage, "regularizer": "gaussian", "decoder": decoder, kind[:-1]: made}
    if kind in ("autoencoder_losses", "discriminators"):
        loss = made if kind == "autoencoder_losses" else {"adversarial": {"discriminator": made}}
        stage = convert("first_stages", of(rule, "AutoencoderKL", LEGACY))[0].plain()
        kind, made = "engines", {"use": "autoencoder", "first_stage": stage, "loss": loss}
    found = check(kind, made)
    if kind == "engines" and made["use"] == "autoencoder" and NOT_YET:
        assert "unknown engine 'autoencoder'" in found[0]
    elif kind == "embedders" and rule.name not in index.names(kind):  # once it is registered, nothing may be wrong
        assert [problem.partition("\n")[0].partition(" Did")[0] for problem in found] == [
            f"new.yaml part: unknown embedder '{rule.name}'."
        ]
    else:
        assert found == []


@pytest.mark.parametrize(("name", "rule"), PAIRS, ids=[f"{rule.kind}/{name}" for name, rule in PAIRS])
def test_an_unknown_parameter_is_an_error_or_reaches_the_check(name, rule):
    spec = of(rule, name, {**example(rule, name), "no_such_thing": 1})
    block, problems, _ = convert(rule.kind, spec)
    if rule.any_param:
        assert problems == []
        told = any("no_such_thing" in problem for problem in check(rule.kind, block.plain()))
        assert told or name == "ModelSummary"  # which takes any keyword
    else:
        assert len(problems) == 1
        assert problems[0].startswith("old.yaml:1:1 part.params.no_such_thing: this parameter is not known.")


@pytest.mark.parametrize(("name", "rule"), PAIRS, ids=[f"{rule.kind}/{name}" for name, rule in PAIRS])
def test_a_kind_is_one_of_ours(name, rule):
    assert rule.kind in KINDS or rule.kind in ("encoders", "decoders", "discriminators", "autoencoder_losses")


def made(kind: str, target: str, **params: Any) -> Any:
    block, problems, _ = convert(kind, {"target": target, "params": params})
    assert problems == []
    return block.plain()


# --- autoencoders that train ---------------------------------------------------------------------------------------


def test_an_engine_of_the_ancestor_is_a_first_stage_in_an_engine_here():
    engine = made("engines", "sgm.models.autoencoder.AutoencoderKL", lossconfig=GAN_CONFIG, ema_decay=0.99, **LEGACY)
    stage, loss = engine["first_stage"], engine["loss"]
    assert list(engine)[:2] == ["use", "first_stage"]
    assert stage == made("first_stages", "sgm.models.autoencoder.AutoencoderKL", **LEGACY)
    assert engine["ema"] == {"use": "ema", "decay": 0.99}
    assert loss["adversarial"] == {
        "discriminator": {"use": "patch", "in_channels": 3, "num_layers": 2, "dims": 2},
        "start": 100,
        "loss": "vanilla",
        "weight": 0.5,
        "factor": 1.0,
    }
    assert loss["perceptual"]["heads"] == "vgg.pth"
    assert (loss["logvar"], loss["learn_logvar"], loss["scale_input_to_target"]) == (0.1, True, False)


def test_a_loss_that_did_not_count_gets_the_weight_zero():
    loss = {**GAN_CONFIG, "params": {"disc_start": 0, "perceptual_weight": 0.0}}
    engine = made("engines", "sgm.models.autoencoder.AutoencoderKL", lossconfig=loss, **LEGACY)
    assert engine["loss"]["regularization_weights"] == {"kl_loss": 0.0}
    assert "perceptual" not in engine["loss"]
    vq = {**GAN_CONFIG, "params": {"disc_start": 0, "regularization_weights": {"loss/vq": 1.0}}}
    engine = made("engines", "sgm.models.autoencoder.AutoencoderLegacyVQ", n_embed=8, lossconfig=vq,
                  **{**LEGACY, "ddconfig": {**LEGACY["ddconfig"], "double_z": False}})  # fmt: skip
    assert engine["loss"]["regularization_weights"] == {"vq_loss": 1.0}


def test_a_discriminator_of_its_own_takes_the_place_of_the_flat_parameters():
    config = {"target": "sgm.modules.autoencoding.lpips.model.model.NLayerDiscriminator", "params": PATCH}
    loss = made("autoencoder_losses", GAN_CONFIG["target"], disc_start=1, discriminator_config=config)
    inside = loss["adversarial"]["discriminator"]
    assert {key: inside[key] for key in ("in_channels", "ndf", "num_layers")} == {
        "in_channels": 3,
        "ndf": 64,
        "num_layers": 3,
    }


@pytest.mark.parametrize("key", ["trainable_ae_params", "ae_optimizer_args", "trainable_disc_params"])
def test_parameter_groups_have_to_be_written_anew(key):
    spec = {"target": "sgm.models.autoencoder.AutoencoderKL", "params": {**LEGACY, key: [["decoder"]]}}
    assert "write parameter_groups" in convert("engines", spec)[1][0]


# --- values keep their meaning -------------------------------------------------------------------------------------


def test_a_quantised_logarithm_becomes_one_that_is_not_quantised():
    params = {"discretization_config": DDPM, "num_idx": 1000}
    for scaling in ("EDMScaling", "VScalingWithEDMcNoise"):
        config = {"target": D + f"denoiser_scaling.{scaling}"}
        assert made("denoisers", D + "denoiser.DiscreteDenoiser", scaling_config=config, **params)[
            "quantize_c_noise"
        ] is False  # fmt: skip
    eps = {"target": D + "denoiser_scaling.EpsScaling"}
    assert "quantize_c_noise" not in made("denoisers", D + "denoiser.DiscreteDenoiser", scaling_config=eps, **params)


def test_defaults_that_differ_are_written():
    projected = QUANTIZE + "VectorQuantizerWithInputProjection"
    assert made("regularizers", projected, input_dim=8, n_codes=4, codebook_dim=2)["beta"] == 1.0
    short = {key: value for key, value in LAYOUT.items() if key != "ch_mult"}
    assert made("encoders", D + "model.Encoder", **short)["ch_mult"] == [1, 2, 4, 8]
    assert made("decoders", "sgm.modules.autoencoding.temporal_ae.VideoDecoder", **short)["video_kernel_size"] == 3


def test_an_encoder_that_is_an_identity_is_none():
    spec = {"regularizer_config": REGULARIZER, "encoder_config": IDENTITY, "decoder_config": DECODER}
    stage = made("first_stages", "sgm.models.autoencoder.AutoencodingEngine", **spec)
    assert stage["use"] == "autoencoder"
    assert "encoder" not in stage


def test_a_video_decoder_makes_a_temporal_autoencoder():
    decoder = {"target": "sgm.modules.autoencoding.temporal_ae.VideoDecoder", "params": LAYOUT}
    spec = {"regularizer_config": REGULARIZER, "encoder_config": ENCODER, "decoder_config": decoder}
    assert made("first_stages", "sgm.models.autoencoder.AutoencodingEngine", **spec)["use"] == "temporal_autoencoder"


@pytest.mark.parametrize(
    ("regularizer", "use"),
    [
        (REGULARIZER, "autoencoder_kl"),
        ({**REGULARIZER, "params": {"sample": False}}, "autoencoder_kl_mode"),
        (VQ, "vq"),
    ],
)
def test_the_regularizer_names_the_legacy_autoencoder(regularizer, use):
    stage = made(
        "first_stages", "sgm.models.autoencoder.AutoencodingEngineLegacy", regularizer_config=regularizer, **LEGACY
    )
    assert stage["use"] == use
    assert stage["chunk"] == 2
    assert (stage.get("n_embed"), stage.get("beta")) == ((16, 0.1) if use == "vq" else (None, None))


def test_a_legacy_autoencoder_with_another_regularizer_is_an_error():
    codes = {"target": QUANTIZE + "EMAVectorQuantizer", "params": {"n_embed": 4, "embedding_dim": 4, "beta": 1.0}}
    params = {**LEGACY, "regularizer_config": codes}
    spec = {"target": "sgm.models.autoencoder.AutoencodingEngineLegacy", "params": params}
    assert "with the regularizer ema_vq there is no first stage" in convert("first_stages", spec)[1][0]


def test_a_slot_has_what_stood_beside_the_target():
    spec = {
        "target": "sgm.modules.encoders.modules.ClassEmbedder",
        "params": {"embed_dim": 8},
        "is_trainable": True,
        "ucg_rate": 0.1,
        "legacy_ucg_value": 3,
        "input_keys": ["cls"],
    }
    conditioner = made("conditioners", "sgm.modules.GeneralConditioner", emb_models=[spec])
    assert conditioner["embedders"] == [
        {
            "input_keys": ["cls"],
            "trainable": True,
            "ucg_rate": 0.1,
            "ucg_value": 3,
            "embedder": {"use": "class", "embed_dim": 8},
        }
    ]


def test_open_clip_is_found_by_architecture_and_weights():
    target = "sgm.modules.encoders.modules.FrozenOpenCLIPEmbedder2"
    big = made("embedders", target, arch="ViT-bigG-14", version="laion2b_s39b_b160k", legacy=False)
    assert big == {
        "use": "open_clip_text",
        "model": "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",
        "legacy": False,
        "layer": "last",
    }
    assert made("embedders", target)["model"] == "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    problems = convert("embedders", {"target": target, "params": {"arch": "RN50"}})[1]
    assert "open_clip's RN50 laion2b_s32b_b79k is not known by a name on the hub" in problems[0]


def test_low_scale_levels_become_a_discretization():
    low = made("embedders", "sgm.modules.encoders.modules.LowScaleEncoder", **EXAMPLES["LowScaleEncoder"])
    assert low["num_levels"] == 100
    assert low["discretization"] == {
        "use": "legacy_ddpm",
        "num_timesteps": 100,
        "linear_start": 0.001,
        "linear_end": 0.01,
    }


@pytest.mark.parametrize(
    ("kind", "target", "params", "message"),
    [
        ("networks", D + "openaimodel.UNetModel", {"spatial_transformer_attn_type": "linear"}, "has no counterpart"),
        ("networks", D + "video_model.VideoUNet", {"time_downup": True}, "time_downup: true has no counterpart"),
        ("decoders", D + "model.Decoder", {"give_pre_end": True}, "give_pre_end: true has no counterpart"),
        (
            "first_stages",
            "sgm.models.autoencoder.AutoencoderKL",
            {"ddconfig": {"double_z": False}},
            "double_z: false has no counterpart",
        ),
        ("guiders", D + "guiders.VanillaCFG", {"dyn_thresh_config": {"target": "sgm.x.Other"}}, "guidance is plain"),
        (
            "embedders",
            "sgm.modules.encoders.modules.FrozenOpenCLIPImageEmbedder",
            {"ucg_rate": 0.1},
            "the rate beside the embedder says it",
        ),
        ("conditioners", "sgm.modules.GeneralConditioner", {"emb_models": {"a": 1}}, "a list of embedders"),
        (
            "engines",
            "sgm.models.diffusion.DiffusionEngine",
            {"disable_first_stage_autocast": "yes"},
            "true or false was expected",
        ),
        (
            "engines",
            "sgm.models.diffusion.DiffusionEngine",
            {"network_wrapper": "sgm.x.IdentityWrapper"},
            "has no counterpart",
        ),
        (
            "callbacks",
            "main.ImageLogger",
            {"log_images_kwargs": {"split": "x"}},
            "log_images takes N, sample and ucg_keys",
        ),
        (
            "first_stages",
            "sgm.models.autoencoder.AutoencoderKL",
            {"ddconfig": 3},
            "a mapping of parameters was expected",
        ),
        ("first_stages", "sgm.models.autoencoder.AutoencoderKL", 3, "a mapping of parameters was expected"),
    ],
)
def test_what_has_no_counterpart_is_an_error(kind, target, params, message):
    _, problems, _ = convert(kind, {"target": target, "params": params})
    assert len(problems) == 1
    assert message in problems[0]


@pytest.mark.parametrize(
    ("kind", "spec", "message"),
    [
        ("networks", {"target": "my.nets.Fancy"}, "unknown target 'my.nets.Fancy': no network of ours stands for it"),
        ("networks", {"target": "torch.nn.UNetModel"}, "unknown target 'torch.nn.UNetModel'"),
        ("networks", {"target": D + "openaimodel.UNetModle"}, "Did you mean 'UNetModel'?"),
        ("samplers", {"target": D + "guiders.VanillaCFG"}, "is known as a guider, and a sampler is needed here"),
        ("embedders", {"target": "sgm.x.ClassEmbedderForMultiCond"}, "it never worked"),
        ("scalings", {"params": {}}, "a scaling was expected here: a mapping with 'target:'"),
        ("scalings", "edm", "a scaling was expected here"),
        ("scalings", {"target": 3}, "a scaling was expected here"),
        (
            "scalings",
            {"target": D + "denoiser_scaling.EDMScaling", "sigma_data": 1},
            "part.sigma_data: no key of this name is known",
        ),
    ],
)  # fmt: skip
def test_a_target_that_is_not_known_is_an_error(kind, spec, message):
    _, [problem], _ = convert(kind, spec)
    assert message in problem
