"""Denoisers, scalings, discretizations, guiders, samplers, losses, weightings and training noise levels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sgm_core.config.tree import Node, plain
from sgm_plugins.tools.convert.document import Block
from sgm_plugins.tools.convert.nodes import target_of
from sgm_plugins.tools.convert.rewriter import Action, Rule
from sgm_plugins.tools.convert.rules import drop, keep, keeps, part
from sgm_plugins.tools.convert.tables.adversaries import perceptual

if TYPE_CHECKING:
    from sgm_plugins.tools.convert.rewriter import Scope

LOGARITHMS = ("edm", "v_edm_noise")
"""Our scalings whose c_noise is a logarithm."""


def _told_the_logarithm(scope: Scope) -> None:
    """The pair of a quantised table and a logarithm is refused here."""
    items = scope.block.items
    made = items["scaling"].value if "scaling" in items else None
    scaling = made.items["use"].value if isinstance(made, Block) else ""
    if scaling in LOGARITHMS and ("quantize_c_noise" not in items or items["quantize_c_noise"].value is True):
        note = "ln(sigma) / 4 was looked up in a table of sigmas: index 0 for nearly all. Now the network is told it"
        scope.put("quantize_c_noise", False, note=note)


def _extra_inputs(scope: Scope, key: str, node: Node) -> None:
    value = plain(node)
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        if value is not None:
            scope.problem(key, node, "the names of batch entries were expected")
    else:
        scope.rewriter.extra_inputs += names
        scope.drop(key, node, "the conditioner hands batch entries to the network, see its embedders")


def _perceptual(scope: Scope) -> None:
    if "loss_type" in scope.block.items and scope.block.items["loss_type"].value == "lpips":
        distance = perceptual(scope)
        scope.put("perceptual", distance)


def _old_weighting(scope: Scope, key: str, node: Node) -> None:
    """In the first release the denoiser had the weighting of the loss: the engine moves it."""
    if node.value is not None:
        scope.take(node)
        scope.rewriter.old_weighting = node


TABLE: dict[str, Action] = {
    "discretization_config": part("discretization", "discretizations"),
    "do_append_zero": keep("append_zero"),
    **keeps("num_idx flip"),
}
SCALING: dict[str, Action] = {
    "scaling_config": part("scaling", "scalings"),
    "weighting_config": _old_weighting,
}

SAMPLER: dict[str, Action] = {
    "discretization_config": part("discretization", "discretizations"),
    "guider_config": part("guider", "guiders"),
    "num_steps": keep(),
    "verbose": drop("sgm shows progress"),
    "device": drop("a sampler works where the noise is"),
}


def _steps(scope: Scope) -> None:
    """The scripts could give them with each call."""
    if "num_steps" not in scope.block.items:
        scope.missing("num_steps", scope.node, STEPS, "left to the scripts")


STEPS = "simple_video_sample.py gave 25 for svd, 30 for svd_xt, 50 for sv3d; the demo 40"
CHURN = {**SAMPLER, **keeps("s_churn s_tmin s_tmax s_noise")}
ANCESTRAL = {**SAMPLER, **keeps("eta s_noise")}

CLIP: dict[str, Action] = {
    **keeps("max_scale min_scale num_frames"),
    "additional_cond_keys": drop("every entry of a conditioning goes with the batch"),
}
PLAIN_CFG = ("sgm.modules.diffusionmodules.sampling_utils.NoDynamicThresholding",)


def _no_thresholding(scope: Scope, key: str, node: Node) -> None:
    if target_of(node) in ("", *PLAIN_CFG):
        scope.drop(key, node, "guidance is plain")
    else:
        scope.problem(key, node, f"{target_of(node)} has no counterpart: guidance is plain")


DEMO = ("sgm", "scripts")


def _weighting(name: str, parameters: str = "") -> tuple[Rule, ...]:
    return (Rule("weightings", name, keeps(parameters)),)


RULES: dict[str, tuple[Rule, ...]] = {
    # denoisers and scalings
    "Denoiser": (Rule("denoisers", "continuous", SCALING),),
    "DiscreteDenoiser": (
        Rule("denoisers", "discrete", SCALING | TABLE | {"quantize_c_noise": keep()}, finish=_told_the_logarithm),
    ),
    "EDMScaling": (Rule("scalings", "edm", keeps("sigma_data")),),
    "EpsScaling": (Rule("scalings", "eps"),),
    "VScaling": (Rule("scalings", "v"),),
    "VScalingWithEDMcNoise": (Rule("scalings", "v_edm_noise"),),
    # discretizations
    "EDMDiscretization": (Rule("discretizations", "edm", keeps("sigma_min sigma_max rho")),),
    "LegacyDDPMDiscretization": (
        Rule("discretizations", "legacy_ddpm", keeps("linear_start linear_end num_timesteps")),
    ),
    "Img2ImgDiscretizationWrapper": (
        Rule(
            "discretizations",
            "img2img",
            {"discretization": part("discretization", "discretizations"), "strength": keep()},
            packages=DEMO,
        ),
    ),
    "Txt2NoisyDiscretizationWrapper": (
        Rule(
            "discretizations",
            "txt2noisy",
            {"discretization": part("discretization", "discretizations"), **keeps("strength original_steps")},
            packages=DEMO,
        ),
    ),
    # guiders
    "VanillaCFG": (Rule("guiders", "cfg", {"scale": keep(), "dyn_thresh_config": _no_thresholding}),),
    "IdentityGuider": (Rule("guiders", "identity"),),
    "LinearPredictionGuider": (Rule("guiders", "linear", CLIP),),
    "TrianglePredictionGuider": (Rule("guiders", "triangle", CLIP | keeps("period period_fusing")),),
    "TrapezoidPredictionGuider": (
        Rule("guiders", "trapezoid", CLIP | keeps("edge_perc"), note="its plateau is max_scale, where it was always 1"),
    ),
    "SpatiotemporalPredictionGuider": (Rule("guiders", "spatiotemporal", CLIP | keeps("num_views")),),
    # samplers
    "EulerEDMSampler": (Rule("samplers", "euler_edm", CHURN, finish=_steps),),
    "HeunEDMSampler": (Rule("samplers", "heun_edm", CHURN, finish=_steps),),
    "EulerAncestralSampler": (Rule("samplers", "euler_ancestral", ANCESTRAL, finish=_steps),),
    "DPMPP2SAncestralSampler": (Rule("samplers", "dpmpp_2s_ancestral", ANCESTRAL, finish=_steps),),
    "DPMPP2MSampler": (Rule("samplers", "dpmpp_2m", SAMPLER, finish=_steps),),
    "LinearMultistepSampler": (Rule("samplers", "linear_multistep", SAMPLER | keeps("order"), finish=_steps),),
    "SubstepSampler": (
        Rule("samplers", "substep", ANCESTRAL | {"n_sample_steps": keep("num_steps")}, packages=("scripts",)),
    ),
    # training
    "StandardDiffusionLoss": (
        Rule(
            "losses",
            "standard",
            {
                "sigma_sampler_config": part("sigma_sampler", "sigma_samplers"),
                "loss_weighting_config": part("weighting", "weightings"),
                "batch2model_keys": _extra_inputs,
                "type": keep("loss_type"),
                **keeps("loss_type offset_noise_level"),
            },
            finish=_perceptual,
        ),
    ),
    "UnitWeighting": _weighting("unit"),
    "EDMWeighting": _weighting("edm", "sigma_data"),
    "VWeighting": _weighting("v"),
    "EpsWeighting": _weighting("eps"),
    "EDMSampling": (Rule("sigma_samplers", "edm", keeps("p_mean p_std")),),
    "DiscreteSampling": (Rule("sigma_samplers", "discrete", TABLE),),
    "ZeroSampler": (Rule("sigma_samplers", "zero"),),
}
