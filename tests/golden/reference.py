"""The reference's class and parameter names, and ours: what translates the configurations of the goldens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from sgm_plugins.denoisers import ContinuousDenoiser, DiscreteDenoiser
from sgm_plugins.discretizations import EDMDiscretization, LegacyDDPMDiscretization
from sgm_plugins.embedders.classes import ClassEmbedder
from sgm_plugins.embedders.identity import IdentityEmbedder
from sgm_plugins.embedders.timestep import TimestepEmbedder
from sgm_plugins.guiders import ClassifierFreeGuidance, IdentityGuider
from sgm_plugins.lr_schedules import Cosine, CosineCycles, LinearCycles
from sgm_plugins.samplers.euler_edm import EulerEDMSampler
from sgm_plugins.samplers.heun_edm import HeunEDMSampler
from sgm_plugins.scalings import EDMScaling, EpsScaling, VScaling, VScalingEDMNoise
from sgm_plugins.sigma_samplers import DiscreteSigmaSampler, EDMSigmaSampler, ZeroSigmaSampler
from sgm_plugins.weightings import EDMWeighting, EpsWeighting, UnitWeighting, VWeighting


class NotBuiltError(Exception):
    """Something of the reference that ours does not have yet; the message names it."""


MISSING = {
    # areas
    "autoencoder": "autoencoders are not built yet",
    "gaussian_encoder": "the Gaussian encoder embedder is not built yet",
    "quantizer": "the vector quantizers are not built yet",
    "spatial_rescaler": "the spatial rescaler embedder is not built yet",
    # guiders
    "LinearPredictionGuider": "guider of video models: LinearPredictionGuider is not built yet",
    "SpatiotemporalPredictionGuider": "guider of video models: SpatiotemporalPredictionGuider is not built yet",
    "TrapezoidPredictionGuider": "guider of video models: TrapezoidPredictionGuider is not built yet",
    "TrianglePredictionGuider": "guider of video models: TrianglePredictionGuider is not built yet",
    # samplers
    "DPMPP2MSampler": "sampler: DPMPP2MSampler is not built yet",
    "DPMPP2SAncestralSampler": "sampler: DPMPP2SAncestralSampler is not built yet",
    "EulerAncestralSampler": "sampler: EulerAncestralSampler is not built yet",
    "LinearMultistepSampler": "sampler: LinearMultistepSampler is not built yet",
    "SubstepSampler": "sampler: SubstepSampler is not built yet",
    # discretizations
    "Img2ImgDiscretizationWrapper": "discretization: the part of a schedule for image to image is not built yet",
    "Txt2NoisyDiscretizationWrapper": "discretization: the part of a schedule before a refiner is not built yet",
    # networks
    "SpatialUNetModelWithTime": "network: the U-Net of 4-D video is not built yet",
    "VideoUNet": "network: the video U-Net is not built yet",
    # embedders
    "GaussianEncoder": "embedder: GaussianEncoder is not built yet",
    "SpatialRescaler": "embedder: SpatialRescaler is not built yet",
    # functions
    "ddpm timestep embedding": "the sines-first timestep embedding of the DDPM U-Net is not built yet",
    "lpips": "loss_type lpips is not built yet",
}
"""What ours does not have, and is skipped. Whoever builds one of these deletes its line and teaches the runner."""

WRONG = {
    "quantized log": "the reference quantizes c_noise = ln(sigma) / 4 as if it were a sigma",
}
"""What the reference gets wrong, and ours does not repeat."""


class Ours(NamedTuple):
    """A class of ours; how the reference calls its parameters; the reference's that do not change its numbers."""

    make: Callable[..., Any]
    renamed: Mapping[str, str] = {}
    ignored: tuple[str, ...] = ()


_TABLE = {"discretization_config": "discretization", "do_append_zero": "append_zero"}
_SAMPLER = {"discretization_config": "discretization", "guider_config": "guider"}
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
    "VanillaCFG": Ours(ClassifierFreeGuidance),
    "EulerEDMSampler": Ours(EulerEDMSampler, _SAMPLER, ("verbose", "device")),
    "HeunEDMSampler": Ours(HeunEDMSampler, _SAMPLER, ("verbose", "device")),
    "UnitWeighting": Ours(UnitWeighting),
    "EDMWeighting": Ours(EDMWeighting),
    "VWeighting": Ours(VWeighting),
    "EpsWeighting": Ours(EpsWeighting),
    "EDMSampling": Ours(EDMSigmaSampler),
    "DiscreteSampling": Ours(DiscreteSigmaSampler, _TABLE),
    "ZeroSampler": Ours(ZeroSigmaSampler),
    "LambdaWarmUpCosineScheduler": Ours(Cosine, _COSINE, ("verbosity_interval",)),
    "LambdaWarmUpCosineScheduler2": Ours(CosineCycles, _CYCLES, ("verbosity_interval",)),
    "LambdaLinearScheduler": Ours(LinearCycles, _CYCLES, ("verbosity_interval",)),
    "IdentityEncoder": Ours(IdentityEmbedder),
    "ClassEmbedder": Ours(ClassEmbedder),
    "ConcatTimestepEmbedderND": Ours(TimestepEmbedder),
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
