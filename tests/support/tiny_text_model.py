"""A text-to-image model in small: a U-Net with transformers, and the two text encoders of SDXL."""

from pathlib import Path

CONFIG = {
    "use": "diffusion",
    "latent_shape": [2, 8, 8],
    "network": {
        "use": "unet",
        "in_channels": 2,
        "out_channels": 2,
        "model_channels": 32,
        "num_res_blocks": 1,
        "channel_mult": [1, 2],
        "attention_resolutions": [2],
        "num_head_channels": 16,
        "context_dim": 64,
        "use_linear_in_transformer": True,
        "num_classes": "sequential",
        "adm_in_channels": 20,
    },
    "denoiser": {"use": "continuous", "scaling": {"use": "edm"}},
    "first_stage": "identity",
    "loss_fn": {"use": "standard", "sigma_sampler": "edm", "weighting": "edm"},
    "sampler": {"use": "euler_edm", "num_steps": 2, "discretization": "edm", "guider": {"use": "cfg", "scale": 2.0}},
    "optimizer": {"use": "adamw", "lr": 0.01},
}


def text_config(clip: Path, **changes: object) -> dict:
    """The config, with a folder that `tiny_transformers.write_clip` has written."""
    encoder = {"model": str(clip), "max_length": 16}
    slots = [
        {"input_key": "txt", "embedder": {"use": "clip_text", **encoder}},
        {"input_key": "txt", "embedder": {"use": "open_clip_text", **encoder, "legacy": False, "return_pooled": True}},
    ]
    conditioner = {"use": "general", "embedders": slots}
    return {"model": {**CONFIG, "conditioner": conditioner, **changes}}
