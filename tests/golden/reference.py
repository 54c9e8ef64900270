"""The reference's class and parameter names, and ours: what translates the configurations of the goldens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch.optim import SGD

from sgm_plugins.autoencoding.decoder import Decoder
from sgm_plugins.autoencoding.encoder import Encoder
from sgm_plugins.autoencoding.temporal_decoder import TemporalDecoder
from sgm_plugins.denoisers import ContinuousDenoiser, DiscreteDenoiser
from sgm_plugins.discretizations import (
    EDMDiscretization,
    Img2ImgDiscretization,
    LegacyDDPMDiscretization,
    Txt2NoisyDiscretization,
)
from sgm_plugins.embedders.classes import ClassEmbedder
from sgm_plugins.embedders.gaussian_encoder import GaussianEncoderEmbedder
from sgm_plugins.embedders.identity import IdentityEmbedder
from sgm_plugins.embedders.spatial_rescaler import SpatialRescaler
from sgm_plugins.embedders.timestep import TimestepEmbedder
from sgm_plugins.guiders import (
    ClassifierFreeGuidance,
    IdentityGuider,
    LinearGuidance,
    SpatiotemporalGuidance,
    TrapezoidGuidance,
    TriangleGuidance,
)
from sgm_plugins.lr_schedules import cosine, cosine_cycles, linear_cycles
from sgm_plugins.regularizers.ema_vq import EMAVectorQuantizer
from sgm_plugins.regularizers.gaussian import GaussianRegularizer
from sgm_plugins.regularizers.gumbel import GumbelQuantizer
from sgm_plugins.regularizers.identity import IdentityRegularizer
from sgm_plugins.regularizers.vq import VectorQuantizer
from sgm_plugins.samplers.dpmpp_2m import DPMPP2MSampler
from sgm_plugins.samplers.dpmpp_2s_ancestral import DPMPP2SAncestralSampler
from sgm_plugins.samplers.euler_ancestral import EulerAncestralSampler
from sgm_plugins.samplers.euler_edm import EulerEDMSampler
from sgm_plugins.samplers.heun_edm import HeunEDMSampler
from sgm_plugins.samplers.linear_multistep import LinearMultistepSampler
from sgm_plugins.samplers.substep import SubstepSampler
from sgm_plugins.scalings import EDMScaling, EpsScaling, VScaling, VScalingEDMNoise
from sgm_plugins.sigma_samplers import DiscreteSigmaSampler, EDMSigmaSampler, ZeroSigmaSampler
from sgm_plugins.weightings import EDMWeighting, EpsWeighting, UnitWeighting, VWeighting


class NotBuiltError(Exception):
    """Something of the reference that ours does not have yet; the message names it."""


MISSING = {
    # networks
    "SpatialUNetModelWithTime": "network: our U-Net of 4-D video has layers of its own, not SpatialUNetModelWithTime's",
}
"""What ours does not have, and is skipped. Whoever builds one of these deletes its line and teaches the runner."""

WRONG = {
    "quantized log": "the reference quantizes c_noise = ln(sigma) / 4 as if it were a sigma",
    "lpips": "the reference's lpips loss forgets the weight of sigma",
    "trapezoid": "the plateau of the reference's trapezoid is 1 whatever max_scale",
}
"""What the reference gets wrong, and ours does not repeat."""


class Ours(NamedTuple):
    """A class of ours; how the reference calls its parameters; the reference's that do not change its numbers."""

    make: Callable[..., Any]
    renamed: Mapping[str, str] = {}
    ignored: tuple[str, ...] = ()


_CODEBOOK = {"n_e": "n_embed", "e_dim": "embed_dim", "embedding_dim": "embed_dim", "temp_init": "temperature"}
_PROJECTED = {"n_codes": "n_embed", "codebook_dim": "embed_dim"}
_ALWAYS = ("sane_index_shape", "log_perplexity")
_TABLE = {"discretization_config": "discretization", "do_append_zero": "append_zero"}
_SAMPLER = {"discretization_config": "discretization", "guider_config": "guider"}
_SHOWN = ("verbose", "device")
_FRAMES = ("additional_cond_keys",)  # every entry of a conditioning is doubled
_CYCLES = {
    "warm_up_steps": "warmup_steps",
    "f_start": "start_factors",
    "f_max": "peak_factors",
    "f_min": "end_factors",
}
_COSINE = {
    "warm_up_steps": "warmup_steps",
    "lr_start": "start_factor",
    "lr_max": "peak_factor",
    "lr_min": "end_factor",
    "max_decay_steps": "total_steps",
}


def _factor(schedule: Callable[..., Any]) -> Callable[..., Any]:
    """The multiplier of a schedule: in the reference it is the component itself."""
    return lambda **numbers: schedule(SGD([torch.zeros(1)], lr=1.0), **numbers).lr_lambdas[0]


BUILT = {
    "EDMScaling": Ours(EDMScaling),
    "EpsScaling": Ours(EpsScaling),
    "VScaling": Ours(VScaling),
    "VScalingWithEDMcNoise": Ours(VScalingEDMNoise),
    "Denoiser": Ours(ContinuousDenoiser, {"scaling_config": "scaling"}),
    "DiscreteDenoiser": Ours(DiscreteDenoiser, {"scaling_config": "scaling", **_TABLE}),
    "EDMDiscretization": Ours(EDMDiscretization),
    "LegacyDDPMDiscretization": Ours(LegacyDDPMDiscretization),
    "IdentityGuider": Ours(IdentityGuider),
    "Img2ImgDiscretizationWrapper": Ours(Img2ImgDiscretization),
    "Txt2NoisyDiscretizationWrapper": Ours(Txt2NoisyDiscretization),
    "VanillaCFG": Ours(ClassifierFreeGuidance),
    "LinearPredictionGuider": Ours(LinearGuidance, {}, _FRAMES),
    "TrianglePredictionGuider": Ours(TriangleGuidance, {}, _FRAMES),
    "TrapezoidPredictionGuider": Ours(TrapezoidGuidance, {}, _FRAMES),
    "SpatiotemporalPredictionGuider": Ours(SpatiotemporalGuidance, {}, _FRAMES),
    "EulerEDMSampler": Ours(EulerEDMSampler, _SAMPLER, _SHOWN),
    "HeunEDMSampler": Ours(HeunEDMSampler, _SAMPLER, _SHOWN),
    "EulerAncestralSampler": Ours(EulerAncestralSampler, _SAMPLER, _SHOWN),
    "DPMPP2SAncestralSampler": Ours(DPMPP2SAncestralSampler, _SAMPLER, _SHOWN),
    "DPMPP2MSampler": Ours(DPMPP2MSampler, _SAMPLER, _SHOWN),
    "LinearMultistepSampler": Ours(LinearMultistepSampler, _SAMPLER, _SHOWN),
    "SubstepSampler": Ours(SubstepSampler, {**_SAMPLER, "n_sample_steps": "num_steps"}, _SHOWN),
    "UnitWeighting": Ours(UnitWeighting),
    "EDMWeighting": Ours(EDMWeighting),
    "VWeighting": Ours(VWeighting),
    "EpsWeighting": Ours(EpsWeighting),
    "EDMSampling": Ours(EDMSigmaSampler),
    "DiscreteSampling": Ours(DiscreteSigmaSampler, _TABLE),
    "ZeroSampler": Ours(ZeroSigmaSampler),
    "LambdaWarmUpCosineScheduler": Ours(_factor(cosine), _COSINE, ("verbosity_interval",)),
    "LambdaWarmUpCosineScheduler2": Ours(_factor(cosine_cycles), _CYCLES, ("verbosity_interval",)),
    "LambdaLinearScheduler": Ours(_factor(linear_cycles), _CYCLES, ("verbosity_interval",)),
    "Encoder": Ours(Encoder, ignored=("out_ch",)),
    "Decoder": Ours(Decoder, ignored=("in_channels", "double_z")),
    "VideoDecoder": Ours(TemporalDecoder, ignored=("in_channels", "double_z")),
    "IdentityRegularizer": Ours(IdentityRegularizer),
    "DiagonalGaussianRegularizer": Ours(GaussianRegularizer),
    "VectorQuantizer": Ours(VectorQuantizer, _CODEBOOK, _ALWAYS),
    "VectorQuantizerWithInputProjection": Ours(VectorQuantizer, _PROJECTED),
    "EMAVectorQuantizer": Ours(EMAVectorQuantizer, _CODEBOOK),
    "GumbelQuantizer": Ours(GumbelQuantizer, _CODEBOOK),
    "IdentityEncoder": Ours(IdentityEmbedder),
    "ClassEmbedder": Ours(ClassEmbedder),
    "ConcatTimestepEmbedderND": Ours(TimestepEmbedder),
    "GaussianEncoder": Ours(GaussianEncoderEmbedder, {"flatten_output": "flatten"}),
    "SpatialRescaler": Ours(SpatialRescaler, {"remap_output": "remap"}),
}


def build(target: str, params: Mapping[str, Any] | None = None) -> Any:
    """Ours for a class of the reference and its parameters, with configurations inside them built too.

    Raises:
        NotBuiltError: ours does not have it yet.
        KeyError, TypeError: a class or a parameter that no table here knows.
    """
    name = target.rpartition(".")[2]
    require(name)
    ours = BUILT[name]
    arguments = {
        ours.renamed.get(key, key): build(value["target"], value.get("params")) if _is_config(value) else value
        for key, value in (params or {}).items()
        if key not in ours.ignored
    }
    return ours.make(**arguments)


def require(name: str) -> None:
    """Raise NotBuiltError for what ours does not have yet."""
    if name in MISSING:
        raise NotBuiltError(MISSING[name])


def by_prefix(name: str, table: Mapping[str, str]) -> str:
    """The entry for a name such as `edm_sd1`: its longest beginning, up to an underscore, that the table knows."""
    known = [key for key in table if name == key or name.startswith(f"{key}_")]
    return table[max(known, key=len)]


def _is_config(value: Any) -> bool:
    return isinstance(value, Mapping) and "target" in value
