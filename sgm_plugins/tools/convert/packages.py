"""Where the classes of the ancestors are: generative-models (commit 0ad7de9 and its first release), latent diffusion.

A class of the same name elsewhere is another class, unless it is said that its package is a copy.
"""

from __future__ import annotations

from collections.abc import Iterable

from sgm_core.errors import SgmError

_NAMES = {
    "sgm": "DiffusionEngine AutoencodingEngine StableDataModuleFromConfig",
    "sgm.models": "DiffusionEngine AutoencodingEngine",
    "sgm.models.diffusion": "DiffusionEngine",
    "sgm.models.autoencoder": (
        "AEIntegerWrapper AutoencoderKL AutoencoderKLInferenceWrapper AutoencoderKLModeOnly AutoencoderLegacyVQ "
        "AutoencodingEngine AutoencodingEngineLegacy IdentityFirstStage"
    ),
    "sgm.lr_scheduler": "LambdaLinearScheduler LambdaWarmUpCosineScheduler LambdaWarmUpCosineScheduler2",
    "sgm.inference.helpers": "Img2ImgDiscretizationWrapper",
    "sgm.data": "StableDataModuleFromConfig",
    "sgm.data.dataset": "StableDataModuleFromConfig",
    "sgm.data.mnist": "MNISTLoader",
    "sgm.data.cifar10": "CIFAR10Loader",
    "sgm.modules": "GeneralConditioner",
    "sgm.modules.encoders.modules": (
        "ClassEmbedder ConcatTimestepEmbedderND FrozenByT5Embedder FrozenCLIPEmbedder FrozenCLIPT5Encoder "
        "FrozenOpenCLIPEmbedder FrozenOpenCLIPEmbedder2 FrozenOpenCLIPImageEmbedder "
        "FrozenOpenCLIPImagePredictionEmbedder FrozenT5Embedder GaussianEncoder GeneralConditioner IdentityEncoder "
        "LowScaleEncoder SpatialRescaler VideoPredictionEmbedderWithEncoder"
    ),
    "sgm.modules.autoencoding.losses": "GeneralLPIPSWithDiscriminator",
    "sgm.modules.autoencoding.losses.discriminator_loss": "GeneralLPIPSWithDiscriminator",
    "sgm.modules.autoencoding.lpips.model.model": "NLayerDiscriminator",
    "sgm.modules.autoencoding.regularizers": "DiagonalGaussianRegularizer",
    "sgm.modules.autoencoding.regularizers.base": "IdentityRegularizer",
    "sgm.modules.autoencoding.regularizers.quantize": (
        "EMAVectorQuantizer GumbelQuantizer VectorQuantizer VectorQuantizerWithInputProjection"
    ),
    "sgm.modules.autoencoding.temporal_ae": "VideoDecoder",
    "sgm.modules.diffusionmodules": (
        "Decoder Denoiser Encoder Model OpenAIWrapper StandardDiffusionLoss UNetModel BaseDiffusionSampler"
    ),
    "sgm.modules.diffusionmodules.denoiser": "Denoiser DiscreteDenoiser",
    "sgm.modules.diffusionmodules.denoiser_scaling": "EDMScaling EpsScaling VScaling VScalingWithEDMcNoise",
    "sgm.modules.diffusionmodules.denoiser_weighting": "EDMWeighting EpsWeighting UnitWeighting VWeighting",
    "sgm.modules.diffusionmodules.discretizer": "EDMDiscretization LegacyDDPMDiscretization",
    "sgm.modules.diffusionmodules.guiders": (
        "IdentityGuider LinearPredictionGuider SpatiotemporalPredictionGuider TrapezoidPredictionGuider "
        "TrianglePredictionGuider VanillaCFG"
    ),
    "sgm.modules.diffusionmodules.loss": "StandardDiffusionLoss",
    "sgm.modules.diffusionmodules.loss_weighting": "EDMWeighting EpsWeighting UnitWeighting VWeighting",
    "sgm.modules.diffusionmodules.lpips.model": "NLayerDiscriminator",
    "sgm.modules.diffusionmodules.model": "Decoder Encoder Model",
    "sgm.modules.diffusionmodules.openaimodel": "UNetModel",
    "sgm.modules.diffusionmodules.sampling": (
        "DPMPP2MSampler DPMPP2SAncestralSampler EulerAncestralSampler EulerEDMSampler HeunEDMSampler "
        "LinearMultistepSampler"
    ),
    "sgm.modules.diffusionmodules.sigma_sampling": "DiscreteSampling EDMSampling ZeroSampler",
    "sgm.modules.diffusionmodules.video_model": "SpatialUNetModelWithTime VideoUNet",
    "sgm.modules.diffusionmodules.wrappers": "OpenAIWrapper",
    "scripts.demo.turbo": "SubstepSampler",
    "scripts.demo.discretization": "Img2ImgDiscretizationWrapper Txt2NoisyDiscretizationWrapper",
    "main": "ImageLogger DataModuleFromConfig",
    "ldm.models.diffusion.ddpm": "DDPM LatentDiffusion LatentInpaintDiffusion",
    "ldm.models.autoencoder": "AutoencoderKL IdentityFirstStage VQModel VQModelInterface",
    "ldm.lr_scheduler": "LambdaLinearScheduler LambdaWarmUpCosineScheduler LambdaWarmUpCosineScheduler2",
    "ldm.modules.diffusionmodules.model": "Decoder Encoder Model",
    "ldm.modules.diffusionmodules.openaimodel": "UNetModel",
    "ldm.modules.encoders.modules": (
        "ClassEmbedder FrozenCLIPEmbedder FrozenCLIPT5Encoder FrozenOpenCLIPEmbedder FrozenT5Embedder IdentityEncoder "
        "SpatialRescaler"
    ),
    "ldm.modules.losses": "LPIPSWithDiscriminator",
    "ldm.modules.losses.contperceptual": "LPIPSWithDiscriminator",
    "ldm.modules.losses.vqperceptual": "VQLPIPSWithDiscriminator",
    "ldm.data.laion": "WebDataModuleFromConfig",
    "taming.models.vqgan": "VQModel",
    "taming.modules.losses.vqperceptual": "VQLPIPSWithDiscriminator",
}
MODULES = {module: frozenset(names.split()) for module, names in _NAMES.items()}
"""A module of the ancestors -> the classes that configs name there."""

LIBRARIES = ("torch", "pytorch_lightning", "lightning", "deepspeed")
"""Packages of which the class alone counts."""


class Packages:
    """The modules of the ancestors, and of renamed copies of them.

    Args:
        copies: `vwm=sgm`: what a copy is called, and of what.

    Raises:
        SgmError: not of that form.
    """

    def __init__(self, copies: Iterable[str] = ()) -> None:
        self.copies: dict[str, str] = {}
        for text in copies:
            copy, separator, of = text.partition("=")
            if not separator or not copy or not of:
                raise SgmError(f"--package {text}: write COPY=ORIGINAL, such as vwm=sgm")
            self.copies[copy] = of

    def own(self, target: str) -> str:
        """The target as it is called in the original."""
        for copy in sorted(self.copies, key=len, reverse=True):
            if target.startswith(f"{copy}."):
                return self.copies[copy] + target[len(copy) :]
        return target

    def holds(self, module: str, name: str) -> bool:
        """Whether an ancestor has this class there."""
        return module.partition(".")[0] in LIBRARIES or name in MODULES.get(module, ())

    def elsewhere(self, target: str, packages: Iterable[str]) -> str:
        """Where the class of this name is, and how to say that this is a copy of it."""
        module, _, name = target.rpartition(".")
        homes = [m for m, names in MODULES.items() if name in names and m.partition(".")[0] in packages]
        for home in homes:
            package, _, inner = home.partition(".")
            if inner and module.endswith(f".{inner}"):
                copy = module.removesuffix(f".{inner}")
                return f"If {copy} is a copy of {package}: --package {copy}={package}"
        home = f"{homes[0]}." if homes else ""
        return f"{home}{name} is another class: compare them, and write the name of ours if they are the same"
