"""`check_component`: one call that checks all that a role promises."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch.utilities.seed import isolate_rng

from sgm_core.registry import did_you_mean
from sgm_core.testing.adaptation import AdapterContract
from sgm_core.testing.autoencoding import (
    DecoderContract,
    DiscriminatorContract,
    EncoderContract,
    FeatureNetworkContract,
)
from sgm_core.testing.common import CALL, SEE_ROLE, check_behaviour, check_description
from sgm_core.testing.contract import Constructed, Contract
from sgm_core.testing.data import DataModuleContract
from sgm_core.testing.diffusion import DenoiserContract, DiscretizationContract, ScalingContract
from sgm_core.testing.engine import EngineContract
from sgm_core.testing.families import FamilyContract
from sgm_core.testing.guidance import GuiderContract
from sgm_core.testing.latents import FirstStageContract, RegularizerContract
from sgm_core.testing.models import ConditionerContract, EmbedderContract, NetworkContract
from sgm_core.testing.optimization import AverageContract, LRScheduleContract, OptimizerContract
from sgm_core.testing.sampling import SamplerContract
from sgm_core.testing.subject import Subject
from sgm_core.testing.training import LossContract, SigmaSamplerContract, WeightingContract

CONTRACTS: dict[str, type[Contract]] = {
    "engines": EngineContract,
    "networks": NetworkContract,
    "denoisers": DenoiserContract,
    "scalings": ScalingContract,
    "discretizations": DiscretizationContract,
    "samplers": SamplerContract,
    "guiders": GuiderContract,
    "losses": LossContract,
    "weightings": WeightingContract,
    "sigma_samplers": SigmaSamplerContract,
    "conditioners": ConditionerContract,
    "embedders": EmbedderContract,
    "first_stages": FirstStageContract,
    "regularizers": RegularizerContract,
    "encoders": EncoderContract,
    "decoders": DecoderContract,
    "discriminators": DiscriminatorContract,
    "feature_networks": FeatureNetworkContract,
    "adapters": AdapterContract,
    "averages": AverageContract,
    "optimizers": OptimizerContract,
    "lr_schedules": LRScheduleContract,
    "datamodules": DataModuleContract,
    "callbacks": Constructed,
    "loggers": Constructed,
    "families": FamilyContract,
}


def check_component(
    kind: str, component: str | Callable[..., Any], /, inputs: Mapping[str, Any] | None = None, **params: Any
) -> None:
    """Check that a component keeps what is promised of every component, and of its kind.

    It is built from its schema with `params`, as a config would; `inputs` is what it is used with, by kind:

    - embedders: the batch entries that it is called with, in order, `{"cls": torch.tensor([3, 5])}`;
      conditioners, engines: the batch
    - networks: the arguments of its call, `{"x": ..., "timesteps": ..., "context": ..., "y": ...}`
    - first_stages: `{"x": images}`, by default (2, 3, 32, 32); `"round_trip": 1e-3` claims that decode(encode(x))
      is x up to this
    - regularizers: `{"z": latents}`, by default (2, 8, 4, 4)
    - encoders, discriminators, feature_networks: `{"x": images}`, by default (2, 3, 32, 32)
    - decoders: `{"z": latents}`, by default (2, 4, 8, 8); of one that asks for frames they are one clip
    - samplers: `{"order": 2}` claims an order of convergence; 1 is expected of each that adds no noise
    - scalings: `{"sigma_data": 1.0}` claims unit variance for data of this standard deviation
    - families: `{"shapes": {key: shape}}`, of a file in one of its forms
    - sigma_samplers: `{"rand": ...}`, four draws in the form that it takes
    - the others: nothing

    The global random states are left as they were.

    Raises:
        BrokenContract: (an AssertionError) the first promise that is not kept: which one, what was seen, what to do.
        ValueError: the test itself is wrong: unknown names, arguments or inputs.
    """
    subject = Subject(kind, component, params)
    contract = _contract(subject, dict(inputs or {}))
    with isolate_rng():
        check_description(subject)
        check_behaviour(subject, contract)
        with subject.trying(CALL, SEE_ROLE):
            contract.check()


def _contract(subject: Subject, inputs: dict[str, Any]) -> Contract:
    make = CONTRACTS[subject.kind.name]
    accepted = list(inspect.signature(make).parameters.values())[1:]
    names = [p.name for p in accepted if p.kind is not p.VAR_KEYWORD]
    if len(names) == len(accepted):  # else any entry may be in a batch
        for key in inputs:
            if key not in names:
                known = ", ".join(names) or "none"
                raise ValueError(f"{subject} takes no inputs '{key}'.{did_you_mean(key, names)} It takes: {known}")
    missing = [p.name for p in accepted if p.default is p.empty and p.name in names and p.name not in inputs]
    if missing:
        raise ValueError(f"{subject} needs inputs: {{'{missing[0]}': ...}} is missing (see check_component)")
    return make(subject, **inputs)
