"""First stages, their encoders and decoders, and regularizers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sgm_core.config.tree import Node, plain
from sgm_plugins.tools.convert.document import Block
from sgm_plugins.tools.convert.rewriter import Action, Rule
from sgm_plugins.tools.convert.rules import drop, inline, keep, keeps, must, part
from sgm_plugins.tools.convert.tables.networks import ATTENTION

if TYPE_CHECKING:
    from sgm_plugins.tools.convert.rewriter import Scope

NOTHING = (
    "torch.nn.Identity",
    "torch.nn.modules.linear.Identity",
    "taming.modules.losses.DummyLoss",
    "taming.modules.losses.vqperceptual.DummyLoss",
)

LAYOUT: dict[str, Action] = {
    **keeps("ch ch_mult num_res_blocks attn_resolutions resolution z_channels dropout resamp_with_conv"),
    "attn_type": keep(values={"vanilla-xformers": "vanilla"}, note=ATTENTION),
    "use_linear_attn": must(False, why="see attn_type"),
}
OLD_CH_MULT = {"ch_mult": [1, 2, 4, 8]}

ENCODER: dict[str, Action] = {
    **LAYOUT,
    **keeps("in_channels double_z"),
    "out_ch": drop("of the decoder"),
    "tanh_out": drop("of the decoder"),
}
DECODER: dict[str, Action] = {
    **LAYOUT,
    **keeps("out_ch tanh_out"),
    "in_channels": drop("of the encoder"),
    "double_z": drop("of the encoder"),
    "give_pre_end": must(False, why="a decoder gives images"),
}
BOTH = {**LAYOUT, **keeps("in_channels out_ch tanh_out")}

TRAINING = (
    "loss_config",
    "lossconfig",
    "optimizer_config",
    "monitor",
    "lr_g_factor",
    "trainable_ae_params",
    "ae_optimizer_args",
    "trainable_disc_params",
    "disc_optimizer_args",
    "disc_start_iter",
    "diff_boost_factor",
    "additional_decode_keys",
    "ema_decay",
    "input_key",
)
WITHOUT_TRAINING: dict[str, Action] = {name: drop("a first stage does not train") for name in TRAINING}
LEGACY: dict[str, Action] = {
    **WITHOUT_TRAINING,
    "embed_dim": keep(),
    "max_batch_size": keep("chunk"),
}


def _weights(scope: Scope, key: str, node: Node) -> None:
    if node.value is None:
        return
    scope.put("weights", plain(node), node)


WEIGHTS: dict[str, Action] = {"ckpt_path": _weights, "ckpt_engine": _weights}


def _legacy(double_z: bool, **more: Action) -> dict[str, Action]:
    twice = {"double_z": must(double_z, why="the regularizer says it")}
    return {**LEGACY, **WEIGHTS, "ddconfig": inline(BOTH | twice), **more}


OF_LATENT_DIFFUSION = ("ldm", "taming")
AT_DECODING = "latents are those of the codebook here, before the diffusion; there they were made so when decoded"


def _quant_conv(scope: Scope) -> None:
    """The regularizer says which of ours it is."""
    items = scope.block.items
    regularizer = items.pop("regularizer", None)
    made = regularizer.value.items if regularizer is not None and isinstance(regularizer.value, Block) else {}
    name = made["use"].value if made else ""
    if name == "gaussian":
        sample = made.get("sample")
        items["use"].value = "autoencoder_kl" if sample is None or sample.value else "autoencoder_kl_mode"
    elif name == "vq" and set(made) <= {"use", "n_embed", "embed_dim", "beta"}:
        items["use"].value = "vq"
        items |= {key: made[key] for key in ("n_embed", "beta") if key in made}
    else:
        message = f"with the regularizer {name or 'none'} there is no first stage that has quant_conv"
        rest = list(items.items())[1:]
        items.clear()
        scope.missing("use", scope.node, message)
        items.update(rest)
        if regularizer is not None:
            items["regularizer"] = regularizer


def _name_of_free_form(scope: Scope) -> None:
    """The decoder says whether frames of a clip are mixed."""
    decoder = scope.block.items.get("decoder")
    if decoder is not None and isinstance(decoder.value, Block) and "video_kernel_size" in decoder.value.items:
        scope.block.items["use"].value = "temporal_autoencoder"


WEIGHTS_OF_LDM: dict[str, Action] = {
    **dict.fromkeys(
        ("image_key", "colorize_nlabels", "batch_resize_range", "scheduler_config", "use_ema"),
        drop("a first stage does not train"),
    ),
    "ignore_keys": must([], None, ["loss"], why="weights are loaded whole, but for the loss"),
}
CODEBOOK: dict[str, Action] = {
    "n_e": keep("n_embed"),
    "e_dim": keep("embed_dim"),
    "n_embed": keep(),
    "embedding_dim": keep("embed_dim"),
    "beta": keep(),
    "remap": keep(),
    "unknown_index": keep(),
    "sane_index_shape": drop("indices always have the shape of the latents"),
    "log_perplexity": drop("it is always logged"),
}

VQ_OF_LDM = WEIGHTS_OF_LDM | _legacy(
    False,
    n_embed=keep(),
    sane_index_shape=CODEBOOK["sane_index_shape"],
    remap=must(None, why="a codebook is used whole"),
)

RULES: dict[str, tuple[Rule, ...]] = {
    "IdentityFirstStage": (Rule("first_stages", "identity", packages=("sgm", "ldm")),),
    "AutoencoderKL": (
        Rule("first_stages", "autoencoder_kl", _legacy(True), OLD_CH_MULT),
        Rule("first_stages", "autoencoder_kl", WEIGHTS_OF_LDM | _legacy(True), OLD_CH_MULT, packages=("ldm",)),
    ),
    "AutoencoderKLInferenceWrapper": (Rule("first_stages", "autoencoder_kl", _legacy(True), OLD_CH_MULT),),
    "VQModel": (Rule("first_stages", "vq", VQ_OF_LDM, OLD_CH_MULT, packages=OF_LATENT_DIFFUSION),),
    "VQModelInterface": (
        Rule("first_stages", "vq", VQ_OF_LDM, OLD_CH_MULT, note=AT_DECODING, packages=OF_LATENT_DIFFUSION),
    ),
    "AutoencoderKLModeOnly": (Rule("first_stages", "autoencoder_kl_mode", _legacy(True), OLD_CH_MULT),),
    "AutoencoderLegacyVQ": (
        Rule(
            "first_stages",
            "vq",
            _legacy(False, n_embed=keep(), sane_index_shape=CODEBOOK["sane_index_shape"]),
            OLD_CH_MULT,
        ),
    ),
    "AutoencodingEngine": (
        Rule(
            "first_stages",
            "autoencoder",
            {
                **WITHOUT_TRAINING,
                **WEIGHTS,
                "regularizer_config": part("regularizer", "regularizers"),
                "encoder_config": part("encoder", "encoders", nothing=NOTHING),
                "decoder_config": part("decoder", "decoders"),
            },
            finish=_name_of_free_form,
        ),
    ),
    "AutoencodingEngineLegacy": (
        Rule(
            "first_stages",
            "autoencoder_kl",
            {
                **LEGACY,
                **WEIGHTS,
                "regularizer_config": part("regularizer", "regularizers"),
                "ddconfig": inline(BOTH | {"double_z": drop("the regularizer says it")}),
            },
            OLD_CH_MULT,
            finish=_quant_conv,
        ),
    ),
    "AEIntegerWrapper": (
        Rule(
            "first_stages",
            "integer",
            {
                "model": part("first_stage", "first_stages"),
                "shape": keep(),
                "regularization_key": drop("every regularizer here calls them indices"),
                "encoder_kwargs": must(None, {}, why="an encoder takes images alone"),
            },
            {"shape": [16, 16]},
        ),
    ),
    "Encoder": (Rule("encoders", "conv", ENCODER, OLD_CH_MULT),),
    "Decoder": (Rule("decoders", "conv", DECODER, OLD_CH_MULT),),
    "VideoDecoder": (
        Rule(
            "decoders",
            "temporal",
            {**DECODER, **keeps("time_mode video_kernel_size alpha merge_strategy")},
            OLD_CH_MULT | {"video_kernel_size": 3},
        ),
    ),
    # regularizers
    "IdentityRegularizer": (Rule("regularizers", "identity"),),
    "DiagonalGaussianRegularizer": (Rule("regularizers", "gaussian", keeps("sample")),),
    "VectorQuantizer": (Rule("regularizers", "vq", CODEBOOK | keeps("embedding_weight_norm")),),
    "VectorQuantizerWithInputProjection": (
        Rule(
            "regularizers",
            "vq",
            {
                "n_codes": keep("n_embed"),
                "codebook_dim": keep("embed_dim"),
                **keeps("input_dim beta output_dim embedding_weight_norm remap unknown_index"),
                "sane_index_shape": CODEBOOK["sane_index_shape"],
                "log_perplexity": CODEBOOK["log_perplexity"],
            },
            {"beta": 1.0},
        ),
    ),
    "EMAVectorQuantizer": (Rule("regularizers", "ema_vq", CODEBOOK | keeps("decay eps")),),
    "GumbelQuantizer": (
        Rule(
            "regularizers",
            "gumbel",
            {
                **keeps("num_hiddens n_embed straight_through kl_weight remap"),
                "embedding_dim": keep("embed_dim"),
                "temp_init": keep("temperature"),
            },
        ),
    ),
}
