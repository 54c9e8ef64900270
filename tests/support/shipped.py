"""The configs that are shipped, each with a mark where it cannot be used here."""

import pytest

from sgm_core.config.compose import shipped_configs
from sgm_core.registry import index

NEEDS = {"digits_text": "sgm-minilm"}
"""The plugin that a config uses. `tests/e2e` installs it, and runs the config with it."""


PUBLIC = (
    "chroma",
    "dit_xl_2",
    "flux_dev",
    "sd3_5_large",
    "sd3_5_medium",
    "flux_kontext",
    "flux_schnell",
    "sd_1_5",
    "sd_2_1",
    "sd_2_1_768",
    "sd_xl_base",
    "sd_xl_refiner",
    "sit_xl_2",
    "sv3d_p",
    "sv3d_u",
    "svd",
    "svd_image_decoder",
    "z_image_turbo",
)
"""Configs of public models: in full size, without data. `tests/test_key_tables.py` has more of them."""

LARGE = (
    "chroma_lora",
    "class_latent",
    "flux_dev_finetune",
    "flux_dev_lora",
    "flux_schnell_lora",
    "sd3_5_large_lora",
    "sd3_5_medium_finetune",
    "sd3_5_medium_lora",
    "sd_xl_finetune",
    "sd_xl_lora",
    "txt2img_clip",
    "z_image_turbo_lora",
)
"""Configs that train at full size, on your data. `tests/test_training_configs.py` trains them at a small one."""


def usable_configs(*, public: bool = True) -> list:
    """Parameters of a test: the names; those whose plugin is not installed here are skipped, with the reason.

    Args:
        public: with those of public models, and others of a size that no test can train.
    """
    here = {entry.distribution for entry in index.entries()}
    names = sorted(name for name in shipped_configs() if public or name not in PUBLIC + LARGE)
    return [pytest.param(name, marks=_marks(name, here)) for name in names]


def _marks(name: str, here: set[str]) -> list:
    plugin = NEEDS.get(name)
    if plugin is None or plugin in here:
        return []
    return [pytest.mark.skip(reason=f"the plugin {plugin} is not installed here; tests/e2e/test_minilm.py installs it")]
