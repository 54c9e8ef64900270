"""Grids of noise levels."""

from sgm_plugins.discretizations.ddpm import LegacyDDPMDiscretization
from sgm_plugins.discretizations.edm import EDMDiscretization
from sgm_plugins.discretizations.parts import Img2ImgDiscretization, Txt2NoisyDiscretization
from sgm_plugins.discretizations.table import sigma_table

__all__ = [
    "EDMDiscretization",
    "Img2ImgDiscretization",
    "LegacyDDPMDiscretization",
    "Txt2NoisyDiscretization",
    "sigma_table",
]
