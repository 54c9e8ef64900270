"""What the families of Stable Diffusion share: the forms of their files, and their names in diffusers."""

from __future__ import annotations

import re
from abc import ABC
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

from sgm_core.checkpoints.family import Family, Form, Found, Rule, Shapes, expanded
from sgm_core.checkpoints.layouts import FIRST_STAGE, NETWORK, OWN
from sgm_core.errors import SgmError
from sgm_plugins.families import built, settings, text, unet, vae

DENOISER = {"use": "discrete", "num_idx": 1000, "scaling": "eps", "discretization": "legacy_ddpm"}
SAMPLER = {"use": "euler_edm", "num_steps": 50, "discretization": "legacy_ddpm"}
"""Of a model whose files name no scheduler."""

U_NET = r"model\.diffusion_model\.(?:input_blocks|middle_block|output_blocks)\."
VECTOR = r"model\.diffusion_model\.label_emb\."
CLIP, SECOND_CLIP = r"conditioner\.embedders\.0\.transformer\.text_model\.", r"conditioner\.embedders\.1\.model\."
OPEN_CLIP = r"conditioner\.embedders\.0\.model\.transformer\.resblocks\."
OTHERS = r"control_model\.|zero_convs\.|controlnet_"


def own(*has: str, lacks: str = OTHERS) -> Form:
    """Our layout, of a model with such keys."""
    return OWN._replace(has=has, lacks=(OTHERS, lacks))


def latent(tower: str) -> Form:
    """The files of latent diffusion, which differ from ours in the name of the text encoder."""
    return Form(
        "ldm", "a model in the layout of latent diffusion", (rf"(?:model\.)?cond_stage_model\.{tower}",), (OTHERS,)
    )


BARE = Form(
    "bare network",
    "only a network, whose keys lack the prefix model.diffusion_model.",
    (r"(?:input_blocks|output_blocks|middle_block)\.",),
    (OTHERS, r"model\.|conditioner\.|first_stage_model\."),
    remedy="give a file of the whole model",
)


def folder(*has: str, lacks: tuple[str, ...] = (), parts: tuple[str, ...]) -> Form:
    """A folder of diffusers."""
    remedy = "sgm convert checkpoint makes one file of it"
    return Form("diffusers", "a folder of diffusers", (r"unet\.conv_in\.", *has), lacks, remedy, parts)


class StableDiffusion(Family, ABC):
    """A U-Net, an autoencoder, and text encoders: Rombach et al. 2022, arXiv:2112.10752.

    Attributes:
        towers: the text encoders: the part of diffusers -> our embedder.
        linear: whether the transformers of the network project by matrices, not by convolutions; None: either.
        numbers: the entries beside the prompt, in the order in which they are joined.
        is_xl: whether texts are read as Stable Diffusion XL does: CLIP-L first, an OpenCLIP with all of its ends.
    """

    towers: ClassVar[Mapping[str, int]] = {"text_encoder": 0}
    linear: ClassVar[bool | None] = None
    is_xl: ClassVar[bool] = False
    numbers: ClassVar[tuple[str, ...]] = ()

    def recognises(self, shapes: Shapes) -> Form | None:
        """See `Family`."""
        form = super().recognises(shapes)
        projection = shapes.get("unet.mid_block.attentions.0.proj_in.weight")
        if form is None or projection is None or self.linear is None:
            return form
        return form if (len(projection) == 2) == self.linear else None

    def rules(self, form: str, keys: Collection[str]) -> Iterable[Rule]:
        """See `Family`."""
        network, first_stage = NETWORK.rstrip("."), FIRST_STAGE.rstrip(".")
        if form == BARE.name:
            return [Rule(network, "")]
        if form == "ldm":
            wrapped = any(key.startswith("model.cond_stage_model.") for key in keys)
            tower = Rule("conditioner.embedders.0", f"{'model.' if wrapped else ''}cond_stage_model")
            return [Rule(network, network), Rule(first_stage, first_stage), tower]
        if form != "diffusers":
            return []
        towers = (self._tower(part, index, keys) for part, index in self.towers.items())
        has_stage = any(key.startswith((FIRST_STAGE, "vae.")) for key in keys)
        return chain(unet.unet_rules(keys), vae.vae_rules(keys) if has_stage else (), *towers)

    def _tower(self, part: str, index: int, keys: Collection[str]) -> Iterator[Rule]:
        start = f"conditioner.embedders.{index}."
        if self._is_clip(part):
            return text.clip_rules(f"{start}transformer", part, keys)
        return text.open_clip_rules(f"{start}model", part, keys, last=self.is_xl, projected=self.is_xl)

    def _is_clip(self, part: str) -> bool:
        """Whether a text encoder is OpenAI's CLIP, not an OpenCLIP."""
        return part == "text_encoder" if self.is_xl else self.linear is False

    def config(self, form: str, shapes: Shapes, found: Found) -> Mapping[str, Any] | None:
        """See `Family`."""
        if form != "diffusers":
            return None
        said, stage = built.told(found, "unet/config"), built.told(found, "vae/config")
        if not self.is_xl:
            built.check_widths(found, ("text_encoder", "hidden_size", said["cross_attention_dim"]))
        side = said.get("sample_size") or 64
        guider = {"use": "cfg", "scale": 5.0 if self.is_xl else 7.5}
        # of a folder with a scheduler, this says the levels and what is predicted
        drawing = {"sampler": {"num_steps": 50, "guider": guider}}
        if "scheduler" not in found.places:
            drawing = {"denoiser": DENOISER, "sampler": {**SAMPLER, "guider": guider}}
        return {
            "model": {
                "use": "diffusion",
                "input_key": "image",
                "scale_factor": stage.get("scaling_factor", 0.18215),
                "first_stage_autocast": not stage.get("force_upcast", True),
                "latent_shape": [stage.get("latent_channels", 4), side, side],
                "network": built.unet(found),
                "first_stage": built.autoencoder(found),
                "conditioner": {"use": "general", "embedders": self._slots(found)},
                **drawing,
            }
        }

    def _slots(self, found: Found) -> list[dict[str, Any]]:
        """The embedders of a folder: prompts, and the numbers of Stable Diffusion XL."""
        index = found.told.get("model_index", {})
        prompt: dict[str, Any] = {"input_key": self.prompt, "ucg_rate": 0.1}
        if self.is_xl:
            prompt["drop_group"] = "prompt"
        if not (self.is_xl and index.get("force_zeros_for_empty_prompt", True)):
            prompt["ucg_value"] = ""
        if not self.is_xl:
            return [{**prompt, "embedder": built.clip(found, "text_encoder")}]
        hidden: dict[str, Any] = {"layer": "hidden", "layer_idx": -2}
        last = {**hidden, "return_pooled": True, "projected": True}
        slots = [
            {**prompt, "embedder": built.clip(found, part, **(last if part == "text_encoder_2" else hidden))}
            for part in self.towers
        ]
        width = built.told(found, "unet/config")["addition_time_embed_dim"]
        return [*slots, *({"input_key": key, "embedder": {"use": "timestep", "outdim": width}} for key in self.numbers)]

    def filled(self, form: str, shapes: Shapes) -> Mapping[str, tuple[Sequence[int], float]]:
        """See `Family`."""
        found: dict[str, tuple[Sequence[int], float]] = {}
        for part, index in self.towers.items():
            tower = f"conditioner.embedders.{index}.model"
            if form == "diffusers" and not self._is_clip(part) and f"{tower}.ln_final.weight" in shapes:
                found |= text.filled_up(tower, shapes, ends=self.is_xl)
        return found

    def folder(self, form: str, shapes: Shapes, config: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """See `Family`."""
        if form != "diffusers":
            return None
        network = {key.removeprefix(NETWORK): shape for key, shape in shapes.items() if key.startswith(NETWORK)}
        stage = {key.removeprefix(FIRST_STAGE): shape for key, shape in shapes.items() if key.startswith(FIRST_STAGE)}
        if not network or "quant_conv.weight" not in stage:
            raise SgmError("only a model with all of its parts becomes a folder of diffusers")
        down, up = unet.our_levels(network)
        told: dict[str, Any] = {
            "unet/config": settings.unet_settings(config, network, down, up),
            "vae/config": settings.vae_settings(config, stage, *vae.size(stage)),
            "scheduler/scheduler_config": settings.scheduler_settings(config),
        }
        slots = settings.value(config, "model.conditioner.embedders") or []
        for part, index in self.towers.items():
            start = f"conditioner.embedders.{index}."
            if index >= len(slots) or not any(key.startswith(start) for key in shapes):
                continue
            embedder = slots[index]["embedder"]
            embedder = embedder if isinstance(embedder, Mapping) else {"use": embedder}
            pieces, _ = expanded(self._tower(part, index, shapes), shapes, back=True)
            theirs = {piece.theirs.removeprefix(f"{part}."): shapes[piece.ours] for piece in pieces}
            projection = shapes.get(f"{start}model.text_projection") if self.is_xl else None
            width = None if projection is None else projection[1]
            told[f"{part}/config"] = settings.text_settings(embedder, theirs, text.depth(theirs), width)
            model = embedder.get("model")
            told[part.replace("text_encoder", "tokenizer")] = None if model is None else Path(model)
        told["model_index"] = settings.model_index(
            [part for part in self.towers if f"{part}/config" in told], self.is_xl
        )
        return told

    def lora_names(self, keys: Collection[str]) -> Iterable[Rule]:
        """See `Family`."""
        return lora_names(keys)


def lora_names(keys: Collection[str]) -> list[Rule]:
    """What diffusers and transformers call the layers of a U-Net, and of each CLIP text encoder beside it."""
    rules = list(unet.unet_rules(keys)) if any(key.startswith(NETWORK) for key in keys) else []
    starts = {found[0] for key in keys if (found := re.match(r"conditioner\.embedders\.\d+\.", key))}
    for start in sorted(starts):
        rules += text.clip_rules(f"{start}transformer", "text_encoder", ())
        rules += text.open_clip_rules(f"{start}model", "text_encoder", keys, projected=False)
    return expanded(rules, [key for key in keys if key.startswith((NETWORK, "conditioner."))], back=True)[0]
