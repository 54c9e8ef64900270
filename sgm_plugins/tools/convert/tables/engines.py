"""What the top of a config is: the engine that trains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sgm_plugins.tools.convert.document import Block, Item
from sgm_plugins.tools.convert.nodes import given, shown, target_of
from sgm_plugins.tools.convert.rewriter import Action, Rule
from sgm_plugins.tools.convert.rules import keep, keeps, negate, part

if TYPE_CHECKING:
    from sgm_core.config.tree import Node
    from sgm_plugins.tools.convert.rewriter import Scope

WRAPPERS = ("sgm.modules.diffusionmodules.wrappers.OpenAIWrapper", "__default__")
CALLED = "the engine calls the network as OpenAIWrapper did"


def _wrapper(scope: Scope, key: str, node: Node) -> None:
    """A name, or a part without parameters."""
    named = scope.rewriter.packages.own(target_of(node)) or node.value
    if named is None or (named in WRAPPERS and not given(node).get("params")):
        scope.drop(key, node, CALLED)
    else:
        scope.problem(key, node, f"{key}: {shown(node)} has no counterpart ({CALLED})")


def _no_cond_log(scope: Scope, key: str, node: Node) -> None:
    if node.value is True:
        scope.put("log_keys", [], node, "was no_cond_log: true")
    else:
        scope.drop(key, node, "log_keys says what is logged")


def _ema(scope: Scope) -> None:
    """Two switches there, a part here."""
    items = scope.block.items
    use, decay = items.pop("use_ema", None), items.pop("ema_decay_rate", None)
    texts = [text for item in (use, decay) if item for text in (*item.above, item.beside) if text]
    if use is not None and use.value is True:
        origin = (decay or use).origin
        ema = Block({"use": Item("ema"), **({"decay": Item(decay.value, origin=origin)} if decay else {})})
        scope.put("ema", ema)
        items["ema"].above += texts
    else:
        for text in texts:
            scope.say(text)
        if decay is not None:
            scope.say(f"left out ema_decay_rate: {decay.value} (use_ema was not true)")


def _weighting(scope: Scope) -> None:
    """In the first release the denoiser had it, here the loss has it."""
    node = scope.rewriter.old_weighting
    if node is None:
        return
    loss = scope.block.items.get("loss_fn")
    inside = loss.value.items if loss is not None and isinstance(loss.value, Block) else None
    if inside is None or "weighting" in inside:
        scope.drop("weighting_config", node, "of the denoiser; the loss has its own, or there is none")
        return
    made = scope.rewriter.component(node, "weightings", scope.path_of("denoiser_config.params.weighting_config"))
    inside["weighting"] = Item(made, beside="was in the denoiser", origin=node.where)


def input_key(scope: Scope) -> None:
    """The batch entry of the images: what our data module calls them, or what the ancestor did."""
    items, given = scope.block.items, scope.rewriter.image_key
    if given is not None:
        was = items["input_key"].value if "input_key" in items else "jpg"
        item = items.setdefault("input_key", Item(given))
        item.value, item.beside = (
            given,
            "; ".join(filter(None, [item.beside, f"was {was}: our data modules say {given}"])),
        )
    elif "input_key" not in items:
        scope.put("input_key", "jpg", note="the default of the ancestor; our data modules say image")


def _finish(scope: Scope) -> None:
    _ema(scope)
    _weighting(scope)
    input_key(scope)


DIFFUSION: dict[str, Action] = {
    "network_config": part("network", "networks"),
    "denoiser_config": part("denoiser", "denoisers"),
    "first_stage_config": part("first_stage", "first_stages"),
    "conditioner_config": part("conditioner", "conditioners"),
    "sampler_config": part("sampler", "samplers"),
    "optimizer_config": part("optimizer", "optimizers"),
    "scheduler_config": part("lr_schedule", "lr_schedules"),
    "loss_fn_config": part("loss_fn", "losses", nothing=("torch.nn.Identity",)),
    "loss_config": part("loss_fn", "losses", nothing=("torch.nn.Identity",)),  # in the first release
    "network_wrapper": _wrapper,
    "ckpt_path": keep("init_from"),
    "disable_first_stage_autocast": negate("first_stage_autocast"),
    "compile_model": keep("compile"),
    "en_and_decode_n_samples_a_time": keep("first_stage_chunk"),
    "no_cond_log": _no_cond_log,
    **keeps("scale_factor input_key log_keys use_ema ema_decay_rate"),
}

RULES: dict[str, tuple[Rule, ...]] = {"DiffusionEngine": (Rule("engines", "diffusion", DIFFUSION, finish=_finish),)}
