"""A diffusion model small enough for a unit test, made of real parts."""

import warnings

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader

from sgm_core.engine import DiffusionEngine
from sgm_core.roles import FirstStage
from sgm_core.slots import EmbedderSlot
from sgm_plugins.averages.ema import EMA
from sgm_plugins.conditioners.general import GeneralConditioner
from sgm_plugins.denoisers import ContinuousDenoiser
from sgm_plugins.discretizations import EDMDiscretization
from sgm_plugins.embedders.classes import ClassEmbedder
from sgm_plugins.embedders.identity import IdentityEmbedder
from sgm_plugins.first_stages.identity import IdentityFirstStage
from sgm_plugins.guiders import ClassifierFreeGuidance
from sgm_plugins.losses.standard import StandardLoss
from sgm_plugins.samplers.euler_edm import EulerEDMSampler
from sgm_plugins.scalings import EDMScaling
from sgm_plugins.sigma_samplers import EDMSigmaSampler
from sgm_plugins.weightings import EDMWeighting


class TinyNetwork(nn.Module):
    def __init__(self, channels: int = 1, concat: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels + concat, channels, 3, padding=1)
        self.vector = nn.Linear(4, channels)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x, timesteps, context=None, y=None):
        h = self.conv(x) + timesteps.to(x.dtype)[:, None, None, None]
        return self.dropout(h if y is None else h + self.vector(y)[:, :, None, None])


class HalvingFirstStage(FirstStage):
    """Half the size, with a weight, so that freezing can be seen; remembers how it was called."""

    takes_timesteps = True

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(2.0))
        self.dropout = nn.Dropout(0.9)
        self.chunks: list[int] = []
        self.timesteps: list[int] = []

    def encode(self, x):
        self.chunks.append(len(x))
        return self.dropout(x[..., ::2, ::2] * self.gain)

    def decode(self, z, timesteps=None):
        self.timesteps.append(timesteps)
        return (z / self.gain).repeat_interleave(2, -1).repeat_interleave(2, -2)


def make_engine(network=None, **changes) -> DiffusionEngine:
    torch.manual_seed(0)
    slots = [EmbedderSlot(ClassEmbedder(4, 10), input_key="cls", trainable=True, ucg_rate=0.2)]
    parts = {
        "network": network or TinyNetwork(),
        "denoiser": ContinuousDenoiser(EDMScaling(0.5)),
        "first_stage": IdentityFirstStage(),
        "conditioner": GeneralConditioner(slots),
        "loss_fn": StandardLoss(EDMSigmaSampler(), EDMWeighting(0.5)),
        "sampler": EulerEDMSampler(EDMDiscretization(), 3, ClassifierFreeGuidance(2.0)),
        "ema": EMA(0.9),
    }
    return DiffusionEngine(**(parts | changes))


class SamplingFirstStage(IdentityFirstStage):
    """Draws from the global state, as an autoencoder with a distribution of latents does."""

    def encode(self, x):
        return x + torch.randn_like(x)


class NoisyEmbedder(IdentityEmbedder):
    """Draws from the global state, as one that augments its input does."""

    def forward(self, x):
        return x + torch.randn_like(x)


def make_noisy_engine(**changes):
    torch.manual_seed(0)  # of the network and the embedder, whatever test ran before
    slots = [EmbedderSlot(NoisyEmbedder(), input_key="extra")]
    return make_engine(
        TinyNetwork(concat=1),
        first_stage=SamplingFirstStage(),
        conditioner=GeneralConditioner(slots),
        latent_shape=[1, 8, 8],
        **changes,
    )


def make_batch(n: int = 4, size: int = 8) -> dict:
    return {"image": torch.linspace(-1, 1, n * size**2).view(n, 1, size, size), "cls": torch.arange(n)}


def fit(engine, steps=4, callbacks=(), checkpoint=None, **arguments) -> L.Trainer:
    data = DataLoader([{k: v[0] for k, v in make_batch(1).items()}] * 64, batch_size=4)
    trainer = L.Trainer(
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        callbacks=list(callbacks),
        **arguments,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(engine, data, ckpt_path=checkpoint, weights_only=True)
    return trainer


def snapshot(module: nn.Module) -> dict:
    return {key: value.clone() for key, value in module.state_dict().items()}


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
