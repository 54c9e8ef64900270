"""Grids of noise levels.

A class says with the static method `infinite(n, *, ...)` whether its first level of n is infinite, from n (None: not
known) and the arguments of its constructor that it names; another grid arrives as a function of n. So a config can be
checked before anything is built: see `sgm_plugins.tools.limits`.
"""

from sgm_plugins.discretizations.beta import BetaDiscretization
from sgm_plugins.discretizations.ddpm import DDPMDiscretization, LegacyDDPMDiscretization
from sgm_plugins.discretizations.edm import EDMDiscretization, ExponentialDiscretization
from sgm_plugins.discretizations.flow import FlowDiscretization, LinearQuadraticDiscretization
from sgm_plugins.discretizations.levels import LevelsDiscretization
from sgm_plugins.discretizations.parts import Img2ImgDiscretization, Txt2NoisyDiscretization
from sgm_plugins.discretizations.shifted import ShiftedDiscretization
from sgm_plugins.discretizations.table import sigma_table

__all__ = [
    "BetaDiscretization",
    "DDPMDiscretization",
    "EDMDiscretization",
    "ExponentialDiscretization",
    "FlowDiscretization",
    "Img2ImgDiscretization",
    "LegacyDDPMDiscretization",
    "LevelsDiscretization",
    "LinearQuadraticDiscretization",
    "ShiftedDiscretization",
    "Txt2NoisyDiscretization",
    "sigma_table",
]
