"""Lightning's callbacks, and main.py's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sgm_core.config.tree import Node, plain
from sgm_plugins.tools.convert.rewriter import Action, Rule
from sgm_plugins.tools.convert.rules import drop, keep

if TYPE_CHECKING:
    from sgm_plugins.tools.convert.rewriter import Scope

LIGHTNING = {
    "DeviceStatsMonitor": "device_stats",
    "EarlyStopping": "early_stopping",
    "GradientAccumulationScheduler": "gradient_accumulation",
    "LearningRateMonitor": "lr_monitor",
    "ModelCheckpoint": "model_checkpoint",
    "ModelSummary": "model_summary",
    "RichProgressBar": "rich_progress_bar",
    "Timer": "timer",
    "TQDMProgressBar": "tqdm_progress_bar",
}


OF_SAMPLING = (
    "ddim_steps",
    "ddim_eta",
    "inpaint",
    "quantize_denoised",
    "plot_denoise_rows",
    "plot_progressive_rows",
    "plot_diffusion_rows",
    "return_keys",
    "unconditional_guidance_scale",
    "unconditional_guidance_label",
)
"""What latent diffusion drew beside samples, and how it drew them."""


def _first_step(scope: Scope, key: str, node: Node) -> None:
    """Two switches there: before the first step, and after it."""
    known = scope.block.items.get("first_step")
    if known is not None and (known.value or node.value is not True):
        scope.take(node)
    else:
        scope.put("first_step", plain(node), node, f"was {key}" if key != "log_first_step" else "")


def _max_images(scope: Scope, node: Node) -> None:
    """What is drawn is the smaller of the two."""
    known, value = scope.block.items.get("max_images"), plain(node)
    if known is None or (isinstance(value, int) and isinstance(known.value, int) and value < known.value):
        scope.put("max_images", value, node, "was N of log_images_kwargs")
    else:
        scope.take(node)
        if value != known.value:
            scope.say(f"left out N: {value} (max_images of them were kept)")


def _log_images(scope: Scope, key: str, node: Node) -> None:
    for name, child in scope.pairs(key, node):
        if name == "N":
            _max_images(scope, child)
        elif name in ("sample", "ucg_keys"):
            scope.put(name, plain(child), child)
        elif name in ("use_ema_scope", "n_rows", "n_row"):
            scope.drop(name, child, "the ancestor ignored it, or it was the width of a grid")
        elif name in OF_SAMPLING:
            scope.drop(name, child, "pictures are whole samples, by the sampler of the model")
        else:
            scope.problem(f"{key}.{name}", child, "log_images takes N, sample and ucg_keys")


IMAGES: dict[str, Action] = {
    "batch_frequency": keep("every_n_steps"),
    "increase_log_steps": keep("growing"),
    "max_images": keep(),
    "log_first_step": _first_step,
    "log_before_first_step": _first_step,
    "log_images_kwargs": _log_images,
    "disabled": drop("to draw none, leave out image_logger and write callbacks: []"),
    "clamp": drop("images are always clamped"),
    "rescale": drop("images are always in [-1, 1]"),
    "log_on_batch_idx": drop("steps are steps of the optimizer"),
    "enable_autocast": drop("samples are drawn in the precision of the trainer"),
}

RULES: dict[str, tuple[Rule, ...]] = {
    "ImageLogger": (Rule("callbacks", "image_logger", IMAGES, packages=("main",)),),
    **{
        name: (Rule("callbacks", ours, any_param=True, packages=("pytorch_lightning", "lightning")),)
        for name, ours in LIGHTNING.items()
    },
}
