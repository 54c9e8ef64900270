"""Autoencoders that train: their engine, what it is trained on, and the discriminator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sgm_core.config.tree import Node
from sgm_plugins.tools.convert.document import Block, Item
from sgm_plugins.tools.convert.rewriter import Action, Rule
from sgm_plugins.tools.convert.rules import drop, keep, keeps, must, part
from sgm_plugins.tools.convert.tables.autoencoders import NOTHING

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
DISCRIMINATOR = {"disc_in_channels": "in_channels", "disc_num_layers": "num_layers", "dims": "dims"}


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
    scope.put(
        key, {RENAMED_LOSSES.get(str(name), str(name)): scope.plain(child) for name, child in node.value.items()}, node
    )


LOSS: dict[str, Action] = {
    **{name: keep() for name in (*ADVERSARY, *DISCRIMINATOR)},
    **keeps("perceptual_weight learn_logvar"),
    "logvar_init": keep("logvar"),
    "scale_input_to_tgt_size": keep("scale_input_to_target"),
    "regularization_weights": _losses,
    "additional_log_keys": drop("all numbers are logged"),
    "discriminator_config": part("discriminator", "discriminators"),
}

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
    given = params.value if params is not None and isinstance(params.value, dict) else {}
    own = {key: child for key, child in given.items() if key in OF_STAGE}
    node = Node({"target": target, "params": Node(own, scope.node.origin)}, scope.node.origin)
    stage = scope.rewriter.component(node, "first_stages", scope.path)
    use = items.pop("use")
    rest = dict(items)
    items.clear()
    items["use"] = use
    if stage is not None:
        scope.waiting, waiting = [], scope.waiting
        scope.put("first_stage", stage)
        scope.waiting = waiting
    items.update(rest)
    _weights_of_losses(scope, stage)
    image = scope.rewriter.image_key
    if image is not None:
        was = items["input_key"].value if "input_key" in items else "jpg"
        scope.put("input_key", image, note=f"was {was}: our data modules say {image}")
    elif "input_key" not in items:
        scope.put("input_key", "jpg", note="the default of generative-models; our data modules say image")


def _weights_of_losses(scope: Scope, stage: Block | None) -> None:
    """A loss of the regularizer without a weight did not count there; here each has one."""
    regularizer = stage.items.get("regularizer") if stage is not None else None
    named = stage.items["use"].value if stage is not None else ""
    own = {"autoencoder_kl": "gaussian", "vq": "vq"}.get(named, "")
    kind = regularizer.value.items["use"].value if regularizer is not None else own
    name = OF_REGULARIZER.get(kind)
    loss = scope.block.items.get("loss")
    if name is None or loss is None:
        return
    weights = loss.value.items.setdefault("regularization_weights", Item({}))
    if name not in weights.value:
        weights.value = {**weights.value, name: 0.0}
        weights.beside = f"{name} did not count"


def _later(scope: Scope, key: str, node: Node) -> None:
    """A part of the first stage: see `_stage`."""


def _start(scope: Scope, key: str, node: Node) -> None:
    """The step at which the discriminator starts stood in two places there."""
    if node.value:
        scope.say(f"disc_start_iter was {scope.plain(node)}: loss.adversarial.start says when it starts")
        scope.problem(key, node, "write it as disc_start of the loss: here the discriminator starts once")
    else:
        scope.drop(key, node, "loss.adversarial.start says it")


def _ema(scope: Scope, key: str, node: Node) -> None:
    if node.value is not None:
        scope.put("ema", Block({"use": Item("ema"), "decay": Item(scope.plain(node))}), node, "was ema_decay")


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


RULES: dict[str, tuple[Rule, ...]] = {
    "AutoencodingEngine": _engine("regularizer_config", "encoder_config", "decoder_config"),
    "AutoencodingEngineLegacy": _engine("regularizer_config", "embed_dim", "max_batch_size", "ddconfig"),
    "AutoencoderKL": _engine("embed_dim", "max_batch_size", "ddconfig"),
    "AutoencoderLegacyVQ": _engine("embed_dim", "n_embed", "sane_index_shape", "max_batch_size", "ddconfig"),
    "GeneralLPIPSWithDiscriminator": (Rule("autoencoder_losses", "", LOSS, finish=_adversary),),
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
