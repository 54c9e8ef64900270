"""The classes of generative-models and latent diffusion, by class name, and what each is here."""

from __future__ import annotations

from collections.abc import Iterable

from sgm_plugins.tools.convert.rewriter import Action, Rule
from sgm_plugins.tools.convert.rules import part
from sgm_plugins.tools.convert.tables import (
    adversaries,
    autoencoders,
    callbacks,
    diffusion,
    embedders,
    engines,
    latent_diffusion,
    networks,
    optimization,
)

TABLES = (
    adversaries,
    autoencoders,
    callbacks,
    diffusion,
    embedders,
    engines,
    latent_diffusion,
    networks,
    optimization,
)
PARTS: dict[str, Action] = {
    **diffusion.SAMPLER,
    **diffusion.SCALING,
    **engines.DIFFUSION,
    "emb_models": embedders.slots,
    "loss_weighting_config": part("weighting", "weightings"),
    "sigma_sampler_config": part("sigma_sampler", "sigma_samplers"),
    "regularizer_config": part("regularizer", "regularizers"),
    "encoder_config": part("encoder", "encoders"),
    "decoder_config": part("decoder", "decoders"),
    "unet_config": part("network", "networks"),
    "lossconfig": part("loss", "autoencoder_losses"),
    "cond_stage_config": part("embedder", "embedders"),
}
"""What becomes of parts with these names in a class that is not known."""


def all_rules() -> dict[str, tuple[Rule, ...]]:
    """Class name -> the rules for it, one per kind that it can be."""
    found: dict[str, tuple[Rule, ...]] = {}
    tables: Iterable[dict[str, tuple[Rule, ...]]] = (module.RULES for module in TABLES)
    for table in tables:
        for name, rules in table.items():
            found[name] = (*found.get(name, ()), *rules)
    return found
