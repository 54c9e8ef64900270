"""p(sigma), the noise levels met in training."""

from sgm_plugins.sigma_samplers.laws import DiscreteSigmaSampler, EDMSigmaSampler, ZeroSigmaSampler

__all__ = ["DiscreteSigmaSampler", "EDMSigmaSampler", "ZeroSigmaSampler"]
