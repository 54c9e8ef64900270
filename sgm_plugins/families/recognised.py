"""Files that are no models of their own: what lies on top of one, parts of one, and what no family here draws with."""

from __future__ import annotations

from sgm_core.checkpoints.family import Family, Form
from sgm_plugins.families.stable_diffusion import OTHERS

_ON_TOP = "draw with it on top of its model: sgm sample MODEL --lora FILE"
_CONVERT = "convert the folder that it is from: sgm convert checkpoint FOLDER --out NEW.safetensors"


class LoRA(Family):
    """Low-rank updates of a model: Hu et al. 2021, arXiv:2106.09685."""

    title = "LoRA"
    forms = (
        Form("kohya", "a LoRA, in kohya's form", (r"lora_(?:unet|te)\w*\.|lora_te",), remedy=_ON_TOP),
        # a model with an adapter has such keys, too, within its own
        Form("peft", "a LoRA, in peft's form", (r"(?!model\.|conditioner\.).*\.lora_[AB]\.",), remedy=_ON_TOP),
        Form("lora", "a LoRA", (r".*(?:\.lora\.(?:up|down)\.|_lora\.(?:up|down)\.)",), remedy=_ON_TOP),
        Form("lycoris", "an adapter of the LyCORIS family", (r".*(?:hada_w1_a|lokr_w1|oft_blocks)",)),
    )


class ControlNet(Family):
    """A network that steers another one: Zhang et al. 2023, arXiv:2302.05543."""

    title = "ControlNet"
    forms = (Form("controlnet", "a ControlNet", (OTHERS,)),)


class TextualInversion(Family):
    """Embeddings of words: Gal et al. 2022, arXiv:2208.01618."""

    title = "textual inversion"
    forms = (
        Form(
            "textual inversion",
            "an embedding of textual inversion",
            (r"emb_params$|string_to_param|clip_[lg]$",),
        ),
    )


class DiffusionTransformer(Family):
    """A diffusion transformer of a family that is not known here."""

    title = "diffusion transformer"
    forms = (
        Form(
            "transformer",
            "a diffusion transformer",
            (r"(?:model\.diffusion_model\.)?(?:double_blocks|joint_blocks)\.",),
        ),
    )


class PartOfModel(Family):
    """A part of a model in a file of its own."""

    title = "part of a model"
    forms = (
        Form(
            "diffusers unet",
            "the U-Net of a diffusers folder",
            (r"(?:down_blocks|mid_block|up_blocks)\..*attn2|add_embedding\.|time_embedding\.",),
            (OTHERS,),
            _CONVERT,
        ),
        Form(
            "diffusers vae",
            "the autoencoder of a diffusers folder",
            (r"(?:en|de)coder\.(?:down_blocks|up_blocks|mid_block)\.",),
            remedy=_CONVERT,
        ),
        Form(
            "bare first stage",
            "a first stage alone",
            (r"(?:en|de)coder\.(?:down|up|mid)\.",),
            remedy="model.first_stage.weights takes it",
        ),
        Form(
            "transformers text",
            "a text encoder of transformers",
            (r"text_model\.(?:encoder|embeddings)\.",),
            remedy="name its folder in the config, `model: FOLDER`",
        ),
    )
