"""An encoder with a Gaussian posterior, its sample as tokens."""

from __future__ import annotations

import torch
from golden.harness import Case
from golden.reference import build
from golden.weights import load_weights

from sgm_core.randomness import randn_like
from sgm_plugins.autoencoding.encoder import Encoder


def run(case: Case) -> None:
    config = dict(case.spec["config"])
    config.pop("weight")  # of the divergence in a loss
    config.pop("out_ch")  # of the decoder
    flatten = config.pop("flatten_output")
    embedder = build("GaussianEncoder", {"encoder": Encoder(**config), "flatten_output": flatten})
    load_weights(case, embedder.encoder)  # the reference's embedder is the encoder itself
    x = case.given("x")
    torch.manual_seed(case.spec["seed"])
    case.check("z", embedder(x))
    _, log = embedder.posterior(embedder.encoder(x))
    case.check("kl_loss", log["kl_loss"])
    torch.manual_seed(case.spec["seed"])
    case.check("noise", randn_like(case.given("noise")))
