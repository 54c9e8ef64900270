"""A scheduler of diffusers, as the denoiser and the sampler of a config."""

from __future__ import annotations

from pathlib import Path

from sgm_core.registry import did_you_mean
from sgm_plugins.tools.convert.document import Block, Item, write
from sgm_plugins.tools.convert.scheduler_settings import Settings, read_settings
from sgm_plugins.tools.convert.tables.schedulers import CLASSES, Parts


def convert_scheduler(path: Path) -> str:
    """YAML with `model.denoiser` and `model.sampler`, to be merged into a config. Comments above say what is
    approximated or dropped.

    Args:
        path: a scheduler_config.json, or a folder of diffusers that has one.

    Raises:
        SgmError: it cannot be read; a class or a value without a counterpart.
    """
    settings = read_settings(path)
    parts, notes = parts_of_scheduler(settings)
    above = [f"from diffusers' {settings.get('_class_name')}; a sampler also needs num_steps", *notes]
    model = Block({"denoiser": Item(parts.denoiser), "sampler": Item(parts.sampler)})
    return write(Block({"model": Item(model, above=above)}))


def parts_of_scheduler(settings: Settings) -> tuple[Parts, list[str]]:
    """The denoiser and the sampler, and notes on what is approximated or dropped.

    Raises:
        SgmError: a class or a value without a counterpart.
    """
    name = settings.get("_class_name")
    if not isinstance(name, str):
        raise settings.refuse("no scheduler of diffusers: the key _class_name is missing")
    if name not in CLASSES:
        hint = did_you_mean(name, CLASSES)
        raise settings.refuse(f"_class_name: {name!r:.80} has no counterpart.{hint} These have: {', '.join(CLASSES)}")
    parts = CLASSES[name](settings)
    unread = list(settings.unread())
    return parts, [*settings.notes, *([f"not read by this class: {', '.join(unread)}"] if unread else [])]
