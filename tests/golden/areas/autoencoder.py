"""Autoencoders on weights made from their keys: encode, regularize, decode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from golden.harness import Case
from golden.reference import build, codes_of
from golden.weights import load_weights
from torch import Tensor

from sgm_plugins.first_stages.autoencoder import Autoencoder
from sgm_plugins.first_stages.autoencoder_kl import AutoencoderKL, AutoencoderKLMode
from sgm_plugins.first_stages.regularized import RegularizedFirstStage
from sgm_plugins.first_stages.temporal import TemporalAutoencoder
from sgm_plugins.first_stages.vq import VQFirstStage
from sgm_plugins.regularizers.gaussian import GaussianRegularizer


def run(case: Case) -> None:
    stage = first_stage(case.spec["model"], case.spec["config"]).eval()
    load_weights(case, stage)
    with torch.no_grad():
        x = case.given("x")
        case.check("encoder_out", stage.encoder(x))
        moments = stage.moments(x)
        if "moments" in case:
            case.check("moments", moments)
        if "z" in case:
            z, log = stage.encode_with_log(x)
            case.check("z", z)
            case.check("log.loss_vq", log["vq_loss"])
            params = case.spec["config"]["regularizer_config"].get("params") or {}
            case.check("log.min_encoding_indices", codes_of(params, log["indices"]))
        else:
            z = check_gaussian(case, moments)
            case.equal("whether the model samples", stage.regularization.sample, samples(case.spec))
        frames = {"timesteps": len(z)} if stage.takes_timesteps else {}
        decoded = stage.decode(z, **frames)
    case.check("decoded", decoded)


def samples(spec: Mapping[str, Any]) -> bool:
    """Whether the reference's model draws its latents: its regularizer's `sample`, or the class without one."""
    regularizer = spec["config"].get("regularizer_config", {})
    return not spec["model"].endswith("ModeOnly") and (regularizer.get("params") or {}).get("sample", True)


NO_NUMBERS = {"monitor", "lossconfig", "loss_config", "optimizer_config", "lr_g_factor", "ema_decay", "input_key"}
"""What configures the training of the reference's autoencoders."""


def first_stage(model: str, config: Mapping[str, Any]) -> RegularizedFirstStage:
    """Ours for a class of the reference and its configuration."""
    given = {key: value for key, value in config.items() if key not in NO_NUMBERS}
    name = model.rpartition(".")[2]
    if name == "AutoencodingEngine":
        make = TemporalAutoencoder if given["decoder_config"]["target"].endswith("VideoDecoder") else Autoencoder
        parts = {key.removesuffix("_config"): value for key, value in given.items()}
        return make(**{key: build(part["target"], part.get("params")) for key, part in parts.items()})
    layout = given.pop("ddconfig")
    double_z = layout.get("double_z", True)
    arguments = {"embed_dim": given.pop("embed_dim"), **{k: v for k, v in layout.items() if k != "double_z"}}
    if name == "AutoencodingEngineLegacy":
        regularizer = given.pop("regularizer_config")
        assert regularizer["target"].endswith("quantize.VectorQuantizer"), regularizer
        codebook = regularizer["params"]
        assert codebook.keys() <= {"n_e", "e_dim", "beta", "sane_index_shape"}, codebook
        arguments |= {"n_embed": codebook["n_e"], "beta": codebook.get("beta", 0.25)}
        name = "VQ"
    assert not given, given
    assert double_z == (name != "VQ"), layout
    models = {"AutoencoderKL": AutoencoderKL, "AutoencoderKLModeOnly": AutoencoderKLMode, "VQ": VQFirstStage}
    return models[name](**arguments)


def check_gaussian(case: Case, moments: Tensor) -> Tensor:
    """Compare mode, divergence, and the sample that the recorded noise gives; the latents that were decoded."""
    mode, log = GaussianRegularizer(sample=False)(moments)
    case.check("z_mode", mode)
    case.check("kl_loss", log["kl_loss"])
    generator = torch.Generator().manual_seed(case.spec["sample_seed"])
    noise = torch.randn(mode.shape, generator=generator.clone_state())
    case.check("sample_noise", noise)
    sample, _ = GaussianRegularizer()(moments, generator=generator)
    case.check("z_sample", sample)
    return mode
