"""Backbones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sgm_plugins.tools.convert.rewriter import Action, Rule
from sgm_plugins.tools.convert.rules import drop, keep, keeps, must

if TYPE_CHECKING:
    from sgm_core.config.tree import Node
    from sgm_plugins.tools.convert.rewriter import Scope

ATTENTION = "torch picks the kernel of its attention"

SHARED: dict[str, Action] = {
    **keeps(
        "in_channels model_channels out_channels num_res_blocks attention_resolutions dropout channel_mult "
        "conv_resample num_classes use_checkpoint num_heads num_head_channels num_heads_upsample "
        "use_scale_shift_norm resblock_updown transformer_depth context_dim use_linear_in_transformer"
    ),
    "adm_in_channels": keep(values={0: None}, note="no vector"),
    "spatial_transformer_attn_type": must("softmax", "softmax-xformers", why=ATTENTION),
}

OLDER: dict[str, Action] = {
    "image_size": drop("a network takes any size"),
    "legacy": drop("heads are those of num_heads and num_head_channels"),
    "use_fp16": drop("trainer.precision says it"),
    "use_bf16": drop("trainer.precision says it"),
    "n_embed": must(None, why="it gives no codebook's indices"),
    "use_new_attention_order": must(False, why="the weights of its attention have the old order"),
    "use_spatial_transformer": drop("context_dim says it"),
}
"""Parameters of latent diffusion and of the first release of the ancestor."""

VIDEO: dict[str, Action] = {
    **SHARED,
    **keeps(
        "transformer_depth_middle time_context_dim use_spatial_context merge_strategy merge_factor video_kernel_size "
        "disable_temporal_crossattention max_ddpm_temb_period"
    ),
    "dims": must(2, why="frames are images"),
    "extra_ff_mix_layer": drop("the layer is there whatever it says, as in generative-models"),
    "time_downup": must(False, why="frames are never resampled"),
    **OLDER,
}


def _camera(scope: Scope, key: str, node: Node) -> None:
    """A switch there, the width of the batch entry here."""
    if node.value is True:
        scope.missing("camera_dim", node, "the width of the batch entry `camera` says that it is used", f"{key}: true")
    else:
        scope.drop(key, node, "see camera_dim")


MULTIVIEW: dict[str, Action] = {
    **SHARED,
    **keeps(
        "transformer_depth_middle use_spatial_context view_context_dim motion_context_dim use_motion_attention "
        "use_3d_attention separate_motion_merge_factor disable_temporal_crossattention max_ddpm_temb_period"
    ),
    "dims": must(2, why="frames are images"),
    "time_block_merge_strategy": keep("merge_strategy"),
    "time_block_merge_factor": keep("merge_factor"),
    "time_kernel_size": keep("video_kernel_size"),
    "merge_strategy": keep(),
    "merge_factor": keep(),
    "video_kernel_size": keep(),
    "extra_ff_mix_layer": drop("the layer is always there"),
    "time_downup": must(False, why="frames are never resampled"),
    "use_camera_emb": _camera,
    "time_mix_legacy": drop("the order of the mixtures is our own"),
    "replicate_time_mix_bug": drop("the mixtures are right"),
    **OLDER,
}


def _linear_attention(scope: Scope, key: str, node: Node) -> None:
    if node.value is True:
        scope.put("attn_type", "linear", node, "was use_linear_attn: true")
    else:
        scope.drop(key, node, "see attn_type")


DDPM: dict[str, Action] = {
    **keeps("ch out_ch ch_mult num_res_blocks attn_resolutions dropout resamp_with_conv in_channels resolution"),
    "attn_type": keep(values={"vanilla-xformers": "vanilla"}, note=ATTENTION),
    "use_timestep": must(True, why="the network is always told the noise level"),
    "use_linear_attn": _linear_attention,
}

RULES: dict[str, tuple[Rule, ...]] = {
    "UNetModel": (
        Rule(
            "networks",
            "unet",
            SHARED
            | OLDER
            | keeps(
                "dims disable_self_attentions num_attention_blocks disable_middle_self_attn disable_middle_transformer"
            ),
            packages=("sgm", "ldm"),
        ),
    ),
    "VideoUNet": (Rule("networks", "video_unet", VIDEO),),
    "SpatialUNetModelWithTime": (
        Rule("networks", "multiview_video_unet", MULTIVIEW, note="layers of our own: weights of SV4D do not load"),
    ),
    "Model": (Rule("networks", "ddpm_unet", DDPM, packages=("sgm", "ldm")),),
}
