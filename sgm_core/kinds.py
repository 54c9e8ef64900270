"""The kinds of component, one table. Standard library only: listing them must not cost an import of torch."""

from typing import NamedTuple


class Kind(NamedTuple):
    """A role that a component can fill, with the entry-point group `sgm.NAME`.

    `role` is the type that stands for the kind in a constructor's hints, as `module:attribute`. `late` names the
    leading parameters that the engine supplies when it builds the part, e.g. the parameters of an optimizer: such a
    component is checked at once and called later.
    """

    name: str
    role: str
    summary: str
    late: tuple[str, ...] = ()

    @property
    def noun(self) -> str:
        """One of them, for messages: `losses` -> `loss`."""
        if self.name.endswith("ies"):
            return f"{self.name[:-3]}y"
        return self.name.removesuffix("es" if self.name.endswith("sses") else "s")


GROUPS = ("commands", "plugins", "sections", "configs", "readers", "python")
"""The entry-point groups beside the kinds, each `sgm.NAME`; `sgm.api` is read with every distribution."""

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("engines", "sgm_core.roles:Engine", "the LightningModule that trains and samples"),
        Kind("networks", "sgm_core.roles:Network", "the backbone F(x * c_in; c_noise, cond)"),
        Kind("denoisers", "sgm_core.roles:Denoiser", "D(x; sigma), the preconditioned network"),
        Kind("scalings", "sgm_core.roles:Scaling", "sigma -> c_skip, c_out, c_in, c_noise"),
        Kind("discretizations", "sgm_core.roles:Discretization", "n -> a grid of n sigmas"),
        Kind("samplers", "sgm_core.roles:Sampler", "noise -> sample"),
        Kind("guiders", "sgm_core.roles:Guider", "classifier-free and other guidance"),
        Kind("losses", "sgm_core.roles:Loss", "the training objective"),
        Kind("weightings", "sgm_core.roles:Weighting", "lambda(sigma), the weight of a noise level in the loss"),
        Kind("sigma_samplers", "sgm_core.roles:SigmaSampler", "p(sigma), the noise levels met in training"),
        Kind("conditioners", "sgm_core.roles:Conditioner", "combines embedders into one conditioning"),
        Kind("embedders", "sgm_core.roles:Embedder", "a batch entry -> vector, crossattn or concat"),
        Kind("first_stages", "sgm_core.roles:FirstStage", "image <-> latent"),
        Kind("regularizers", "sgm_core.roles:Regularizer", "what keeps the latents of a first stage in shape"),
        Kind("encoders", "sgm_core.roles:Encoder", "images -> what a regularizer makes latents of"),
        Kind("decoders", "sgm_core.roles:Decoder", "latents -> images"),
        Kind("discriminators", "sgm_core.roles:Discriminator", "images -> how real each patch of them looks"),
        Kind("feature_networks", "sgm_core.roles:FeatureNetwork", "images -> features for a perceptual distance"),
        Kind("adapters", "sgm_core.roles:Adapter", "a few new weights, trained in place of the model's own"),
        Kind("averages", "sgm_core.roles:Average", "weight averaging while training"),
        Kind("optimizers", "sgm_core.roles:OptimizerFactory", "parameters -> torch optimizer", late=("params",)),
        Kind("lr_schedules", "sgm_core.roles:LRScheduleFactory", "optimizer -> lr of each step", late=("optimizer",)),
        Kind("datamodules", "sgm_core.roles:DataModule", "the training data, a LightningDataModule"),
        Kind("callbacks", "sgm_core.roles:Callback", "a Lightning callback"),
        Kind("loggers", "sgm_core.roles:Logger", "a Lightning logger"),
        Kind("families", "sgm_core.checkpoints.family:Family", "public models: their files, keys, configs and prompts"),
    )
}
