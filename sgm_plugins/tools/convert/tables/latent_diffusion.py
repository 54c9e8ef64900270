"""The engines of latent diffusion: its process is spelt out as denoiser, loss and sampler here.

Rombach et al. 2022, arXiv:2112.10752; https://github.com/CompVis/latent-diffusion, commit a506df5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sgm_core.config.tree import MISSING, Node, plain
from sgm_plugins.tools.convert.document import Block, Item
from sgm_plugins.tools.convert.nodes import given, target_of
from sgm_plugins.tools.convert.rewriter import Action, Rule, Scope
from sgm_plugins.tools.convert.rules import drop, keep, keeps, later, must, part

if TYPE_CHECKING:
    from collections.abc import Iterable

SCHEDULE = {"linear_start": 1e-4, "linear_end": 2e-2}
"""The ancestor's defaults, which are not those of `legacy_ddpm`."""
TIMESTEPS = 1000
PREDICTIONS = {"eps": ("eps", "eps"), "v": ("v", "v")}
"""`parameterization` -> our scaling and weighting: the mean squared error of what the network predicts."""
TEXTS = ("txt", "caption", "text")
STEPS, SCALE = 50, 7.5
"""Of the scripts that sampled."""

PROCESS: dict[str, Action] = {
    "unet_config": part("network", "networks"),
    "first_stage_key": keep("input_key"),
    "scheduler_config": part("lr_schedule", "lr_schedules"),
    "ckpt_path": keep("init_from"),
    "load_only_unet": must(False, why="init_from takes all weights"),
    "ignore_keys": must([], None, why="init_from takes all weights"),
    **dict.fromkeys(
        ("linear_start", "linear_end", "timesteps", "beta_schedule", "parameterization", "loss_type", "use_ema"), later
    ),
    "conditioning_key": later,
    "cosine_s": drop("of another beta_schedule"),
    "given_betas": must(None, why="legacy_ddpm makes its own"),
    "image_size": drop("the data say it; latent_shape fixes what is sampled"),
    "channels": drop("the first stage says it"),
    "monitor": drop("a run keeps its newest checkpoints"),
    "log_every_t": drop("pictures are of whole samples"),
    "clip_denoised": drop("samples are clamped as images"),
    "num_timesteps_cond": must(1, None, why="a condition has no noise"),
    "original_elbo_weight": must(0, 0.0, why="the loss is the simple one"),
    "l_simple_weight": must(1, 1.0, why="the loss is the simple one"),
    "v_posterior": drop("of an ancestral sampler"),
    "learn_logvar": must(False, why="the loss is the simple one"),
    "logvar_init": must(0, 0.0, why="the loss is the simple one"),
    "use_positional_encodings": must(False, why="the network takes no positions"),
    "make_it_fit": must(False, why="weights fit, or an error says what does not"),
    "reset_ema": drop("an average starts from the weights that are loaded"),
    "reset_num_ema_updates": drop("an average starts from the weights that are loaded"),
    "keep_num_ema_updates": must(False, why="an average starts anew"),
}
LATENT: dict[str, Action] = {
    **PROCESS,
    "first_stage_config": part("first_stage", "first_stages"),
    **dict.fromkeys(("cond_stage_config", "cond_stage_key", "cond_stage_trainable", "concat_mode"), later),
    "ucg_training": later,
    "cond_stage_forward": must(None, why="an embedder is called"),
    "scale_by_std": later,
    **keeps("scale_factor"),
}
INPAINT: dict[str, Action] = {
    **LATENT,
    "concat_keys": later,
    "masked_image_key": later,
    "finetune_keys": must(None, why="all weights are loaded as they are"),
    "c_concat_log_start": drop("pictures are of whole samples"),
    "c_concat_log_end": drop("pictures are of whole samples"),
}


class _Assembly:
    """What the parameters of one engine become."""

    def __init__(self, scope: Scope) -> None:
        self.scope, self.rewriter = scope, scope.rewriter

    def value(self, key: str, default: Any = None) -> Any:
        node = self.scope.kept.get(key)
        return default if node is None else plain(node)

    def component(self, name: str, **items: Any) -> Block:
        made = {key: Item(value, origin=self.scope.node.where) for key, value in items.items()}
        return Block({"use": Item(name), **made}, origin=self.scope.node.where)

    def kept(self, block: Block, path: str, key: str, old: str) -> None:
        """Write an old parameter into a part."""
        node = self.scope.kept.get(old)
        if node is not None:
            inner = Scope(self.rewriter, self.scope.path_of(path), node, block)
            inner.put(key, plain(node), node, "" if key == old else f"was {old}")

    def levels(self) -> Block:
        schedule = self.scope.kept.get("beta_schedule")
        if schedule is not None and schedule.value != "linear":
            inner = Scope(self.rewriter, self.scope.path_of("denoiser.discretization"), schedule)
            inner.missing(
                "use", schedule, f"beta_schedule: {plain(schedule)} has no counterpart, legacy_ddpm is linear"
            )
            return inner.block
        made = self.component("legacy_ddpm")
        for key, default in SCHEDULE.items():
            self.kept(made, "denoiser.discretization", key, key)
            if key not in made.items:
                made.items[key] = Item(default, beside="the default of the ancestor")
        if self.value("timesteps", TIMESTEPS) != TIMESTEPS:
            self.kept(made, "denoiser.discretization", "num_timesteps", "timesteps")
        return made

    def count(self, block: Block, path: str) -> None:
        """`num_idx`, the number of noise levels."""
        self.kept(block, path, "num_idx", "timesteps")
        block.items.setdefault("num_idx", Item(TIMESTEPS))

    def predicted(self, kind: int, path: str) -> Block:
        """The scaling (0) or weighting (1) of what the network predicts."""
        node = self.scope.kept.get("parameterization")
        name = self.value("parameterization", "eps")
        if isinstance(name, str) and name in PREDICTIONS:
            return self.component(PREDICTIONS[name][kind])
        assert node is not None
        inner = Scope(self.rewriter, self.scope.path_of(path), node)
        inner.missing("use", node, f"parameterization: {name} has no counterpart. Known: {', '.join(PREDICTIONS)}")
        return inner.block

    def denoiser(self) -> Block:
        made = self.component("discrete", scaling=self.predicted(0, "denoiser.scaling"))
        self.count(made, "denoiser")
        made.items["discretization"] = Item(self.levels())
        return made

    def loss(self) -> Block:
        noise = self.component("discrete")
        self.count(noise, "loss_fn.sigma_sampler")
        noise.items["discretization"] = Item(self.levels())
        weighting = self.predicted(1, "loss_fn.weighting")
        made = self.component("standard", sigma_sampler=noise, weighting=weighting)
        self.kept(made, "loss_fn", "loss_type", "loss_type")
        return made

    def sampler(self, text: bool) -> Block:
        made = self.component("euler_edm")
        made.items["num_steps"] = Item(STEPS, beside="DDIM, which the scripts sampled with; its steps were theirs")
        made.items["discretization"] = Item(self.levels())
        if text:
            guider = self.component("cfg")
            guider.items["scale"] = Item(SCALE, beside="the default of the scripts")
            made.items["guider"] = Item(guider)
        return made

    # --- conditioning ----------------------------------------------------------------------------------------------

    def slots(self) -> list[Block]:
        node = self.scope.kept.get("cond_stage_config")
        if node is None or node.value is None or node.value == "__is_unconditional__":
            return []
        path = self.scope.path_of("cond_stage_config")
        slot = Scope(self.rewriter, path, node)
        slot.block.origin = node.where
        key = self._key(node)
        slot.put("input_key", key[0], key[1], key[2])
        if "cond_stage_trainable" in self.scope.kept:
            slot.put("trainable", self.value("cond_stage_trainable"), self.scope.kept["cond_stage_trainable"])
        self._dropout(slot, str(key[0]))
        if self.value("conditioning_key") == "adm":
            slot.put("output", "vector", self.scope.kept["conditioning_key"], "was conditioning_key: adm")
        if node.value == "__is_first_stage__":
            inner = Scope(self.rewriter, path, node)
            inner.missing("use", node, "no embedder of ours is the first stage of the model")
            inner.block.origin = node.where
            slot.put("embedder", inner.block)
        else:
            slot.put("embedder", self.rewriter.component(node, "embedders", path), node)
        slot.close()
        return [slot.block]

    def _key(self, node: Node) -> tuple[Any, Node | None, str]:
        """The batch entry that is embedded: a class embedder may say its own."""
        params = given(node).get("params")
        own = given(params).get("key") if params is not None else None
        given_key = self.scope.kept.get("cond_stage_key")
        if own is not None and target_of(node).endswith(".ClassEmbedder"):
            return plain(own), own, "was the embedder's key"
        if given_key is not None:
            return plain(given_key), given_key, "was cond_stage_key"
        return "image", None, "the default of the ancestor"

    def _dropout(self, slot: Scope, key: str) -> None:
        """`ucg_training: {txt: {p: 0.1, val: ""}}`: how often an entry is left out."""
        node = self.scope.kept.get("ucg_training")
        if node is not None and node.value is not None and not isinstance(node.value, dict):
            self.scope.problem("ucg_training", node, "a mapping of batch entries was expected")
        for name, child in given(node).items() if node is not None else ():
            settings = given(child)
            if name != key:
                self.scope.problem(f"ucg_training.{name}", child, "no embedder reads this entry")
                continue
            if "p" in settings:
                slot.put("ucg_rate", plain(settings["p"]), settings["p"], "was ucg_training")
            value = settings.get("val")
            slot.put("ucg_value", "" if value is None or value.value is None else plain(value), value)

    def concatenated(self, keys: Iterable[str]) -> list[Block]:
        """Entries that a class of its own brought to the size of the latents."""
        made = []
        for key in keys:
            inner = Scope(self.rewriter, self.scope.path_of("concat_keys"), self.scope.node)
            why = "masks were resized and images encoded by the engine: no embedder of ours does it"
            inner.missing("use", self.scope.node, why, f"part of {target_of(self.scope.node)}")
            made.append(self.component("", input_key=key, output="concat", embedder=inner.block))
            del made[-1].items["use"]
        return made


def _finish(scope: Scope) -> None:
    _assemble(scope, ())


def _inpaint(scope: Scope) -> None:
    keys = scope.kept.get("concat_keys")
    named = plain(keys) if keys is not None else None
    known = isinstance(named, list) and all(isinstance(key, str) for key in named)
    _assemble(scope, named if known and named else ("mask", "masked_image"))


def _assemble(scope: Scope, concatenated: Iterable[str]) -> None:
    items, assembly = scope.block.items, _Assembly(scope)
    written = dict(items)
    items.clear()
    order = ("use", "network")
    items |= {key: written.pop(key) for key in order if key in written}
    scope.put("denoiser", assembly.denoiser())
    if "first_stage" in written:
        items["first_stage"] = written.pop("first_stage")
    elif target_of(scope.node).endswith(".DDPM"):
        items["first_stage"] = Item("identity", beside="the model works on pixels")
    slots = [*assembly.slots(), *assembly.concatenated(concatenated)]
    if slots:
        conditioner = Block({"use": Item("general"), "embedders": Item(slots)}, origin=scope.node.where)
        items["conditioner"] = Item(conditioner)
    scope.put("loss_fn", assembly.loss())
    text = any(item.value in TEXTS for slot in slots if (item := slot.items.get("input_key")) is not None)
    scope.put("sampler", assembly.sampler(text))
    if assembly.value("use_ema", True) is True:
        scope.put(
            "ema", "ema", scope.kept.get("use_ema"), "" if "use_ema" in scope.kept else "there it was the default"
        )
    items |= written
    _say_the_rest(scope, bool(slots))
    _scale_by_std(scope)
    _input_key(scope)


def _say_the_rest(scope: Scope, conditional: bool) -> None:
    """What is said in another way here, or had no effect."""
    said = dict.fromkeys(("conditioning_key", "concat_mode"), "what an embedder gives says where it goes")
    said |= {"masked_image_key": "see the entries for `concat`"}
    if not conditional:
        said |= dict.fromkeys(("cond_stage_config", "cond_stage_key", "cond_stage_trainable"), "there is no condition")
    for key, why in said.items():
        node = scope.kept.get(key)
        if node is not None and node.value not in (None, "adm"):
            scope.drop(key, node, why)
    for key in ("use_ema", "scale_by_std"):
        node = scope.kept.get(key)
        if node is not None and node.value is not True:
            scope.drop(key, node, "it was switched off")


def _scale_by_std(scope: Scope) -> None:
    node = scope.kept.get("scale_by_std")
    if node is not None and node.value is True:
        why = "the first batch gave 1 / its standard deviation: measure it, or take it from the checkpoint"
        scope.missing("scale_factor", node, why, "scale_by_std: true")


def _input_key(scope: Scope) -> None:
    items, name = scope.block.items, scope.rewriter.image_key
    was = items.get("input_key")
    if name is not None and was is not None and was.value not in (name, MISSING):
        was.value, was.beside = name, f"was {was.value}: our data modules say {name}"


def _rules(params: dict[str, Action], finish: Any) -> tuple[Rule, ...]:
    return (Rule("engines", "diffusion", params, packages=("ldm",), finish=finish),)


RULES: dict[str, tuple[Rule, ...]] = {
    "DDPM": _rules(PROCESS, _finish),
    "LatentDiffusion": _rules(LATENT, _finish),
    "LatentInpaintDiffusion": _rules(INPAINT, _inpaint),
}
