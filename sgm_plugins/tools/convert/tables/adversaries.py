"""Autoencoders that train: their engine, what it is trained on, and the discriminator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sgm_core.config.tree import Node, plain
from sgm_plugins.tools.convert.document import Block, Item
from sgm_plugins.tools.convert.nodes import given
from sgm_plugins.tools.convert.rewriter import Action, Rule
from sgm_plugins.tools.convert.rules import drop, keep, keeps, later, must, part
from sgm_plugins.tools.convert.tables.autoencoders import NOTHING
from sgm_plugins.tools.convert.tables.engines import input_key

if TYPE_CHECKING:
    from sgm_plugins.tools.convert.rewriter import Scope

OF_REGULARIZER = {"gaussian": "kl_loss", "vq": "vq_loss", "ema_vq": "vq_loss", "gumbel": "vq_loss"}
"""Our regularizer -> how it calls its loss."""

RENAMED_LOSSES = {"loss/vq": "vq_loss"}


def perceptual(note: Scope) -> Block:
    """A distance by VGG16, whose weights are files of the user's here."""
    note.say("its weights were downloaded; here they are your files, see `sgm show losses/standard`")
    features = Block({"use": Item("vgg16"), "weights": Item("vgg16.pth")})
    return Block({"features": Item(features), "heads": Item("vgg.pth")})


# --- the loss ------------------------------------------------------------------------------------------------------

ADVERSARY = {
    "disc_start": "start",
    "disc_loss": "loss",
    "disc_weight": "weight",
    "disc_factor": "factor",
}
DISCRIMINATOR = {"disc_in_channels": "in_channels", "disc_num_layers": "num_layers", "dims": "dims", "ndf": "ndf"}


def _adversary(scope: Scope) -> None:
    """One flat list of parameters there; the discriminator and what it does apart here."""
    items = scope.block.items
    adversary, made = Block(), Block({"use": Item("patch")})
    given = items.pop("discriminator", None)
    for old, ours in DISCRIMINATOR.items():
        if old in items:
            made.items[ours] = items.pop(old)
    adversary.items["discriminator"] = given if given is not None else Item(made)
    for old, ours in ADVERSARY.items():
        if old in items:
            adversary.items[ours] = items.pop(old)
    scope.put("adversarial", adversary)
    weight = items.get("perceptual_weight")
    if weight is None or weight.value:
        distance = perceptual(scope)
        scope.put("perceptual", distance)


def _losses(scope: Scope, key: str, node: Node) -> None:
    if not isinstance(node.value, dict):
        scope.problem(key, node, "a mapping of losses to weights was expected")
        return
    scope.put(key, {RENAMED_LOSSES.get(str(name), str(name)): plain(child) for name, child in node.value.items()}, node)


LOSS: dict[str, Action] = {
    **{name: keep() for name in (*ADVERSARY, "disc_in_channels", "disc_num_layers", "dims")},
    **keeps("perceptual_weight learn_logvar"),
    "logvar_init": keep("logvar"),
    "scale_input_to_tgt_size": keep("scale_input_to_target"),
    "regularization_weights": _losses,
    "additional_log_keys": drop("all numbers are logged"),
    "discriminator_config": part("discriminator", "discriminators"),
}

OF_LATENT_DIFFUSION: dict[str, Action] = {
    **{name: keep() for name in (*ADVERSARY, "disc_in_channels", "disc_num_layers")},
    "disc_ndf": keep("ndf"),
    "perceptual_weight": keep(),
    "logvar_init": keep("logvar"),
    "kl_weight": later,
    "codebook_weight": later,
    "pixelloss_weight": must(1, 1.0, why="the pixels count once"),
    "use_actnorm": must(False, why="norm is batch, instance or none"),
    "disc_conditional": must(False, why="the discriminator sees images alone"),
    "pixel_loss": must("l1", why="the distance of pixels is absolute"),
    "perceptual_loss": must("lpips", why="the perceptual distance is LPIPS"),
    "n_classes": drop("it was logged only"),
}


def _kl(scope: Scope) -> None:
    _weight(scope, "kl_weight", "kl_loss")
    _adversary(scope)


def _codebook(scope: Scope) -> None:
    scope.rewriter.mean_loss = True
    _weight(scope, "codebook_weight", "vq_loss")
    _adversary(scope)


def _weight(scope: Scope, key: str, loss: str) -> None:
    node = scope.kept.get(key)
    value, note = (1.0, "the default of the ancestor") if node is None else (plain(node), f"was {key}")
    scope.put("regularization_weights", {loss: value}, node, note)


OF_STAGE = (
    "regularizer_config",
    "encoder_config",
    "decoder_config",
    "embed_dim",
    "n_embed",
    "sane_index_shape",
    "max_batch_size",
    "ddconfig",
)
"""Parameters of the ancestor's engine that are those of a first stage here."""

# --- the engine ----------------------------------------------------------------------------------------------------


def _stage(scope: Scope) -> None:
    """The parts of the autoencoder are the engine's own there, those of its first stage here."""
    items = scope.block.items
    target, params = scope.node.value["target"], scope.node.value.get("params")
    own = {key: child for key, child in given(params).items() if key in OF_STAGE} if params is not None else {}
    node = Node({"target": target, "params": Node(own, scope.node.origin)}, scope.node.origin, scope.node.key_origin)
    stage = scope.rewriter.component(node, "first_stages", scope.path)
    use = items.pop("use")
    rest = dict(items)
    items.clear()
    items["use"] = use
    scope.waiting, waiting = [], scope.waiting
    scope.put("first_stage", stage)
    scope.waiting = waiting
    items.update(rest)
    _weights_of_losses(scope, stage)
    input_key(scope)


def _weights_of_losses(scope: Scope, stage: Block) -> None:
    """A loss of the regularizer without a weight did not count there; here each has one."""
    regularizer = stage.items.get("regularizer")
    own = {"autoencoder_kl": "gaussian", "vq": "vq"}.get(str(stage.items["use"].value), "")
    kind = own
    if regularizer is not None and isinstance(regularizer.value, Block):
        kind = str(regularizer.value.items["use"].value)
    name = OF_REGULARIZER.get(kind)
    loss = scope.block.items.get("loss")
    if name is None or loss is None or not isinstance(loss.value, Block) or "use" in loss.value.items:
        return
    weights = loss.value.items.setdefault("regularization_weights", Item({}))
    if isinstance(weights.value, dict) and name not in weights.value:
        weights.value = {**weights.value, name: 0.0}
        weights.beside = f"{name} did not count"
    elif isinstance(weights.value, dict) and scope.rewriter.mean_loss:
        _of_a_mean(weights, name, stage)


def _of_a_mean(weights: Item, name: str, stage: Block) -> None:
    """A weight beside a mean over an image, as one beside the sum."""
    sizes = {"out_ch": 3, "resolution": 256}
    for key in sizes:
        if key in stage.items:
            sizes[key] = stage.items[key].value
    weight = weights.value[name]
    if all(type(n) in (int, float) for n in (weight, *sizes.values())):
        count = sizes["out_ch"] * sizes["resolution"] ** 2
        weights.value = {**weights.value, name: weight * count}
        weights.beside = f"was {weight} beside a mean: here it is a sum, over {count} numbers of an image"


def _later(scope: Scope, key: str, node: Node) -> None:
    """A part of the first stage: see `_stage`."""


def _start(scope: Scope, key: str, node: Node) -> None:
    """The step at which the discriminator starts stood in two places there."""
    if node.value:
        scope.say(f"disc_start_iter was {plain(node)}: loss.adversarial.start says when it starts")
        scope.problem(key, node, "write it as disc_start of the loss: here the discriminator starts once")
    else:
        scope.drop(key, node, "loss.adversarial.start says it")


def _ema(scope: Scope, key: str, node: Node) -> None:
    if node.value is not None:
        scope.put("ema", Block({"use": Item("ema"), "decay": Item(plain(node))}), node, "was ema_decay")


def _groups(scope: Scope, key: str, node: Node) -> None:
    """Two lists that go together there, for each player."""
    if node.value:
        message = "leave it out, and write parameter_groups in the new config: regular expressions with their options"
        scope.problem(key, node, message)


ENGINE: dict[str, Action] = {
    "loss_config": part("loss", "autoencoder_losses", nothing=NOTHING),
    "lossconfig": part("loss", "autoencoder_losses", nothing=NOTHING),
    "optimizer_config": part("optimizer", "optimizers"),
    "monitor": drop("a run keeps its newest checkpoints"),
    "diff_boost_factor": keep("diff_boost"),
    "additional_decode_keys": keep("decode_keys"),
    "ckpt_path": keep("init_from"),
    "ckpt_engine": keep("init_from"),
    "ema_decay": _ema,
    "disc_start_iter": _start,
    "trainable_ae_params": _groups,
    "ae_optimizer_args": _groups,
    "trainable_disc_params": _groups,
    "disc_optimizer_args": _groups,
    **keeps("input_key lr_g_factor"),
}
TURNS = "a step trains autoencoder and discriminator, which took turns"


def _engine(*parts: str) -> tuple[Rule, ...]:
    return (Rule("engines", "autoencoder", ENGINE | dict.fromkeys(parts, _later), note=TURNS, finish=_stage),)


def _of_latent_diffusion(scope: Scope) -> None:
    """Its optimizer was fixed."""
    scope.put("optimizer", Block({"use": Item("adam"), "betas": Item([0.5, 0.9])}), note="it was fixed")
    _stage(scope)
    if scope.rewriter.image_key is None and "image_key" not in scope.kept:
        scope.block.items["input_key"] = Item("image")


def _image_key(scope: Scope, key: str, node: Node) -> None:
    scope.kept[key] = node
    scope.put("input_key", plain(node), node, "was image_key")


def _ema_switch(scope: Scope, key: str, node: Node) -> None:
    if node.value is True:
        scope.put("ema", Block({"use": Item("ema")}), node, "was use_ema: true")
    else:
        scope.drop(key, node, "an average is a part, ema")


LATENT_DIFFUSION: dict[str, Action] = {
    "lossconfig": ENGINE["lossconfig"],
    "monitor": ENGINE["monitor"],
    "ckpt_path": ENGINE["ckpt_path"],
    "image_key": _image_key,
    "ignore_keys": must([], None, why="weights are loaded whole, or an error says what is missing"),
    "colorize_nlabels": must(None, why="pictures of labels are not coloured"),
    **dict.fromkeys(("ddconfig", "embed_dim"), _later),
}
WITH_CODEBOOK: dict[str, Action] = {
    **LATENT_DIFFUSION,
    **dict.fromkeys(("n_embed", "sane_index_shape"), _later),
    "batch_resize_range": must(None, why="a batch has the size that the data have"),
    "scheduler_config": part("lr_schedule", "lr_schedules"),
    "lr_g_factor": keep(),
    "remap": must(None, why="a codebook is used whole"),
    "use_ema": _ema_switch,
}


def _alike(params: dict[str, Action]) -> Rule:
    packages = ("ldm", "taming")
    return Rule("engines", "autoencoder", params, note=TURNS, packages=packages, finish=_of_latent_diffusion)


RULES: dict[str, tuple[Rule, ...]] = {
    "AutoencodingEngine": _engine("regularizer_config", "encoder_config", "decoder_config"),
    "AutoencodingEngineLegacy": _engine("regularizer_config", "embed_dim", "max_batch_size", "ddconfig"),
    "AutoencoderKL": (*_engine("embed_dim", "max_batch_size", "ddconfig"), _alike(LATENT_DIFFUSION)),
    "AutoencoderLegacyVQ": _engine("embed_dim", "n_embed", "sane_index_shape", "max_batch_size", "ddconfig"),
    "VQModel": (_alike(WITH_CODEBOOK),),
    "GeneralLPIPSWithDiscriminator": (Rule("autoencoder_losses", "", LOSS, finish=_adversary),),
    "LPIPSWithDiscriminator": (Rule("autoencoder_losses", "", OF_LATENT_DIFFUSION, packages=("ldm",), finish=_kl),),
    "VQLPIPSWithDiscriminator": (
        Rule("autoencoder_losses", "", OF_LATENT_DIFFUSION, packages=("ldm", "taming"), finish=_codebook),
    ),
    "NLayerDiscriminator": (
        Rule(
            "discriminators",
            "patch",
            {
                "input_nc": keep("in_channels"),
                "ndf": keep(),
                "n_layers": keep("num_layers"),
                "use_actnorm": must(False, why="norm is batch, instance or none"),
            },
        ),
    ),
}
